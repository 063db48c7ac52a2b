//! Attaching to a sealed process, and what else goes by the same check: `/proc/<pid>/mem`,
//! `process_vm_*`, `pidfd_getfd`.

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, lsm},
    programs::LsmContext,
};
use sidecar_common::{
    event::{WHAT_MEM, WHAT_PROCESS_VM, WHAT_PTRACE},
    layout::COMM_LEN,
    policy::{SCOPE_BLOCK_MEM, SCOPE_BLOCK_PTRACE, SEALED_AGENT, Sealed},
};

use super::{Own, Reach, agents, decide};
use crate::{
    kernel::{self, Ptr, load, off, read},
    sealed,
};

/// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h)
const MODE_ATTACH: u32 = 0x02;
/// `PTRACE_MODE_NOAUDIT`: the caller only wants to know how much to show
const MODE_NOAUDIT: u32 = 0x04;
/// `PTRACE_MODE_FSCREDS`: the check of a procfs file, not of a system call
const MODE_FSCREDS: u32 = 0x08;
/// System calls that read or write memory (x86_64)
const PROCESS_VM_READV: u64 = 310;
const PROCESS_VM_WRITEV: u64 = 311;
/// Samples registers and user stack with a check for reading only
const PERF_EVENT_OPEN: u64 = 298;
/// Acts on memory with a check for reading only
const PROCESS_MADVISE: u64 = 440;

/// Where the number of the running system call lies in a kernel stack; found when loaded.
#[btf_map]
pub(crate) static SYSCALL_SLOT: Array<u32, 1> = Array::new();

/// The place, in bytes above the stack's bottom; 0 when it was not found.
#[inline(always)]
pub(crate) fn syscall_slot() -> u32 {
    SYSCALL_SLOT.get(0).copied().unwrap_or(0)
}

/// The number of the system call that runs.
#[inline(always)]
fn current_syscall() -> u64 {
    let stack = kernel::follow(kernel::current(), off!(task_stack));
    read(stack, syscall_slot() as usize)
}

/// The check behind every access of one process to another.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let child: Ptr = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    let tgid: u32 = load!(child, task_tgid);
    let Some(sealed) = sealed::get_with_newborn(child, tgid) else {
        return 0;
    };
    if mode & MODE_ATTACH == 0 && sealed.flags & SEALED_AGENT != 0 {
        return agents::looked_into(child, tgid, sealed, mode & MODE_NOAUDIT == 0);
    }
    if shares_memory(child) {
        return 0;
    }
    let (what, guarded_by, own) = if mode & MODE_ATTACH == 0 {
        // Reading leaves `ps`, `readlink exe`, `nsenter` and exporters at work; what shows
        // something in procfs is guarded when it is opened.
        match current_syscall() {
            PERF_EVENT_OPEN | PROCESS_MADVISE => (WHAT_MEM, SCOPE_BLOCK_MEM, Own::Never),
            _ => return 0,
        }
    } else if mode & MODE_FSCREDS != 0 {
        (WHAT_MEM, SCOPE_BLOCK_MEM, Own::ByPolicy)
    } else {
        match current_syscall() {
            PROCESS_VM_READV | PROCESS_VM_WRITEV => {
                (WHAT_PROCESS_VM, SCOPE_BLOCK_MEM, Own::ByPolicy)
            }
            _ => (WHAT_PTRACE, SCOPE_BLOCK_PTRACE, Own::Never),
        }
    };
    // nobody attaches to an agent, whatever the policy switches off
    let guarded_by = if sealed.flags & SEALED_AGENT != 0 {
        0
    } else {
        guarded_by
    };
    decide(&Reach {
        sealed,
        task: child,
        tgid,
        what,
        guarded_by,
        own,
        name: [0; COMM_LEN],
    })
}

/// Whether the running task has the very memory that it reaches for, as a leak checker that a program
/// starts within itself does (`CLONE_VM`): it is told nothing that it could not read anyway.
#[inline(always)]
fn shares_memory(child: Ptr) -> bool {
    let memory: Ptr = load!(child, task_mm);
    !memory.is_null() && memory == kernel::follow(kernel::current(), off!(task_mm))
}

/// A sealed process asks its parent to trace it.
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(_ctx: LsmContext) -> i32 {
    let Some(sealed): Option<Sealed> = sealed::current() else {
        return 0;
    };
    decide(&Reach {
        sealed,
        task: kernel::current(),
        tgid: kernel::current_tgid(),
        what: WHAT_PTRACE,
        guarded_by: SCOPE_BLOCK_PTRACE,
        own: Own::Never,
        name: [0; COMM_LEN],
    })
}
