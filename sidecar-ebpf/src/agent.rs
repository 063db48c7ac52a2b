//! What only the kernel can tell an agent: programs attached nowhere, which an agent runs itself
//! (`BPF_PROG_TEST_RUN` of a raw tracepoint program runs in the caller's context; 5.10).
//!
//! Without aya's attribute: what it generates drops the program's return value.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::Array, helpers::generated::bpf_probe_read_kernel_str, macros::btf_map,
    programs::RawTracePointContext,
};
use sidecar_common::{
    layout::{MAX_CGROUP_LEVELS, MAX_PID_LEVELS, NAME_LEN, STACK_PADDINGS, THREAD_SIZE},
    policy::{Scope, ScopeFlags, ScopeId, Sealed, SealedFlags},
};

use crate::{
    guard::ptrace::{SYSCALL_SLOT, syscall_slot},
    kernel::{self, off, read},
    sealed::{self, SCOPE_LEASES},
};

/// Makes the caller the agent of a scope: arguments are the scope, its flags and the caller's own
/// process number. Nothing in the caller's PID namespace tells it its number in the kernel's, so the
/// entries are written here. Returns that number, 0 when it failed.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn enlist(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (scope, flags, agent_pid): (ScopeId, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let agent = kernel::current_tgid();
    let start_ns = kernel::own_start();
    let pid = kernel::own_pid();
    let namespace = kernel::namespace_at(pid, kernel::level_of(pid) % MAX_PID_LEVELS);
    let init: u32 = read(
        kernel::follow(namespace, off!(pidns_reaper)),
        off!(task_tgid),
    );
    let init_start_ns = kernel::start_of_init(namespace);
    if init_start_ns == 0 && kernel::level_of(pid) != 0 {
        return 0;
    }
    // (the machine's own PID namespace does not end)
    if kernel::level_of(pid) != 0 && !sealed::await_end_of(scope, init, init_start_ns) {
        return 0;
    }
    let sealed = Sealed {
        seal: start_ns,
        start_ns,
        scope,
        flags: SealedFlags::AGENT,
    };
    if sealed::put(agent, &sealed).is_err()
        || SCOPE_LEASES
            .insert(
                scope,
                Scope {
                    agent_start_ns: start_ns,
                    init_start_ns,
                    agent,
                    init,
                    flags: ScopeFlags::from_bits_retain(flags),
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

/// The answer of [`own_cgroup`].
#[btf_map]
static CGROUP_NAME: Array<[u8; NAME_LEN], 1> = Array::new();

/// Tells the name of the caller's control group, or of the one so many levels above it (the argument):
/// a namespace hides those from `/proc`. Returns the name's length with its NUL, 0 above the root.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn own_cgroup(ctx: *mut c_void) -> u32 {
    let above: u32 = RawTracePointContext::new(ctx).arg(0);
    let set = kernel::follow(kernel::current(), off!(task_cgroups));
    let cgroup = kernel::follow(set, off!(css_set_cgroup));
    let mut node = kernel::follow(cgroup, off!(cgroup_node));
    for level in 0..MAX_CGROUP_LEVELS {
        if level >= above || node.is_null() {
            break;
        }
        node = kernel::follow(node, off!(node_parent));
    }
    let Some(answer) = CGROUP_NAME.get_ptr_mut(0) else {
        return 0;
    };
    if node.is_null() {
        return 0;
    }
    let name = kernel::follow(node, off!(node_name));
    // SAFETY: the helper checks the address; the answer is a live map value of this length.
    let length = unsafe { bpf_probe_read_kernel_str(answer.cast(), NAME_LEN as u32, name.cast()) };
    if length > 0 { length as u32 } else { 0 }
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
        if read::<u32>(stack, slot) == off!(sys_bpf) as u32 {
            fitting += 1;
            let _ = SYSCALL_SLOT.set(0, slot as u32, 0);
        }
    }
    u32::from(fitting == 1 && syscall_slot() != 0)
}
