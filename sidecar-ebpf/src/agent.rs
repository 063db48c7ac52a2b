//! What only the kernel can tell an agent: programs attached nowhere, which an agent runs itself
//! (`BPF_PROG_TEST_RUN` of a raw tracepoint program runs in the caller's context; 5.10).
//!
//! Without aya's attribute: what it generates drops the program's return value.

use core::ffi::c_void;

use aya_ebpf::programs::RawTracePointContext;
use sidecar_common::{
    layout::{STACK_PADDINGS, THREAD_SIZE},
    policy::{SEALED_AGENT, Scope, ScopeId, Sealed},
};

use crate::{
    guard::ptrace::{SYSCALL_SLOT, syscall_slot},
    kernel::{self, off, read},
    sealed::{self, SCOPES},
};

/// `bpf(2)` on x86_64
const SYS_BPF: u64 = 321;

/// Makes the caller the agent of a scope: arguments are the scope, its flags and the caller's own
/// process number. Nothing in the caller's PID namespace tells it its number in the kernel's, so the
/// entries are written here. Returns that number, 0 when it failed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn enlist(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (scope, flags, agent_pid): (ScopeId, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let agent = kernel::current_tgid();
    let start_ns = kernel::start_of(kernel::current());
    let sealed = Sealed {
        seal: start_ns,
        start_ns,
        scope,
        flags: SEALED_AGENT,
    };
    if sealed::put(agent, &sealed).is_err()
        || SCOPES
            .insert(
                scope,
                Scope {
                    agent,
                    flags,
                    agent_pid,
                },
                0,
            )
            .is_err()
    {
        return 0;
    }
    agent
}

/// Finds where this kernel keeps the number of the running system call on the stack: it is
/// `bpf(2)` just now. Returns 1 when exactly one place fits, and remembers it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn find_syscall_slot(_ctx: *mut c_void) -> u32 {
    let stack = kernel::follow(kernel::current(), off!(task_stack));
    let mut fitting = 0;
    for padding in STACK_PADDINGS {
        let slot = THREAD_SIZE - padding - off!(regs_syscall_from_end);
        if read::<u64>(stack, slot) == SYS_BPF {
            fitting += 1;
            let _ = SYSCALL_SLOT.set(0, slot as u32, 0);
        }
    }
    u32::from(fitting == 1 && syscall_slot() != 0)
}
