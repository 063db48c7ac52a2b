//! Attaching to a sealed process, and what else goes by the same check: `/proc/<pid>/mem`,
//! `process_vm_*`, `pidfd_getfd`.

use aya_ebpf::{
    btf_maps::Array,
    macros::{btf_map, lsm},
    programs::LsmContext,
};
use sidecar_common::{
    event::AccessKind,
    layout::COMM_LEN,
    policy::{ScopeFlags, Sealed, SealedFlags},
};
use sidecar_ebpf::monitor::Task;

use super::{AccessRequest, SelfAccess, agents, decide, procfs};
use crate::{
    kernel::{self, Ptr, field, load, off, read},
    sealed,
};

/// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h)
const MODE_ATTACH: u32 = 0x02;
/// `PTRACE_MODE_NOAUDIT`: the caller only wants to know how much to show
const MODE_NOAUDIT: u32 = 0x04;
/// `PTRACE_MODE_FSCREDS`: the check of a procfs file, not of a system call
const MODE_FSCREDS: u32 = 0x08;

/// Where the number of the running system call lies in a kernel stack; found when loaded.
#[btf_map]
pub(crate) static SYSCALL_SLOT: Array<u32, 1> = Array::new();

/// The place, in bytes above the stack's bottom; 0 when it was not found.
#[inline(always)]
pub(crate) fn syscall_slot() -> u32 {
    SYSCALL_SLOT.get(0).copied().unwrap_or(0)
}

/// The numbers of calls of 32 bits.
#[cfg(bpf_target_arch = "x86_64")]
mod narrow {
    //! arch/x86/entry/syscalls/syscall_32.tbl: also what any program may call by `int 0x80`.
    pub(super) const PERF_EVENT_OPEN: u32 = 336;
    pub(super) const PROCESS_VM_READV: u32 = 347;
    pub(super) const PROCESS_VM_WRITEV: u32 = 348;
    pub(super) const PROCESS_MADVISE: u32 = 440;
}
#[cfg(bpf_target_arch = "aarch64")]
mod narrow {
    //! arch/arm64/tools/syscall_32.tbl
    pub(super) const PERF_EVENT_OPEN: u32 = 364;
    pub(super) const PROCESS_VM_READV: u32 = 376;
    pub(super) const PROCESS_VM_WRITEV: u32 = 377;
    pub(super) const PROCESS_MADVISE: u32 = 440;
}

/// A number's bit of calls with pointers of 32 bits by a program of 64 (`__X32_SYSCALL_BIT`), where the kernel has them, and
/// the numbers that some have only there (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(bpf_target_arch = "x86_64")]
mod x32 {
    pub(super) const BIT: u32 = 1 << 30;
    pub(super) const PROCESS_VM_READV: u32 = 539;
    pub(super) const PROCESS_VM_WRITEV: u32 = 540;
}
#[cfg(bpf_target_arch = "aarch64")]
mod x32 {
    //! There are none: these are nobody's.
    pub(super) const BIT: u32 = 0;
    pub(super) const PROCESS_VM_READV: u32 = u32::MAX;
    pub(super) const PROCESS_VM_WRITEV: u32 = u32::MAX;
}

/// The call that runs.
#[derive(Clone, Copy)]
struct Running {
    number: u32,
    is_narrow: bool,
}

impl Running {
    #[inline(always)]
    fn now() -> Self {
        let stack = field!(kernel::own_task(), task_stack as usize) as Ptr;
        // 32 bits, as the kernel takes it. (On x86_64 the register's upper half is whatever the caller left there; on arm64
        // the kernel keeps no more.)
        let number: u32 = read(stack, syscall_slot() as usize);
        Self {
            number: number & !x32::BIT,
            is_narrow: Task::running().is_narrow(),
        }
    }

    /// Whether it acts on another's memory with a check for reading only: `perf_event_open` samples registers and user stack.
    #[inline(always)]
    fn reaches_by_reading(self) -> bool {
        let Self { number, is_narrow } = self;
        if is_narrow {
            number == narrow::PERF_EVENT_OPEN || number == narrow::PROCESS_MADVISE
        } else {
            number == off!(sys_perf_event_open) as u32 || number == off!(sys_process_madvise) as u32
        }
    }

    /// Whether it reads or writes another's memory.
    #[inline(always)]
    fn copies_memory(self) -> bool {
        let Self { number, is_narrow } = self;
        if is_narrow {
            number == narrow::PROCESS_VM_READV || number == narrow::PROCESS_VM_WRITEV
        } else {
            number == off!(sys_process_vm_readv) as u32
                || number == off!(sys_process_vm_writev) as u32
                || number == x32::PROCESS_VM_READV
                || number == x32::PROCESS_VM_WRITEV
        }
    }
}

/// The check behind every access of one process to another.
#[lsm(hook = "ptrace_access_check")]
pub fn ptrace_access_check(ctx: LsmContext) -> i32 {
    let child: Ptr = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    let tgid: u32 = load!(child, task_tgid);
    let Some(sealed) = sealed::get_typed_with_newborn(child, tgid) else {
        return 0;
    };
    if mode & (MODE_ATTACH | MODE_NOAUDIT | MODE_FSCREDS) == MODE_FSCREDS
        && let Some(folder) = procfs::followed_link()
    {
        return decide(&AccessRequest {
            sealed,
            task: child,
            tgid,
            what: AccessKind::Mem,
            guarded_by: unless_agents(sealed, ScopeFlags::BLOCK_MEM),
            // whoever is in the tree has what the tree has
            own: SelfAccess::Always,
            name: folder,
        });
    }
    if mode & MODE_ATTACH == 0 && sealed.flags.contains(SealedFlags::AGENT) {
        return agents::looked_into(child, tgid, sealed, mode & MODE_NOAUDIT == 0);
    }
    if shares_memory(child) {
        return 0;
    }
    let (what, guarded_by, own) = if mode & MODE_ATTACH == 0 {
        // Reading leaves `ps`, `readlink exe`, `nsenter` and exporters at work; what shows
        // something in procfs is guarded when it is opened.
        if !Running::now().reaches_by_reading() {
            return 0;
        }
        (AccessKind::Mem, ScopeFlags::BLOCK_MEM, SelfAccess::Never)
    } else if mode & MODE_FSCREDS != 0 {
        (AccessKind::Mem, ScopeFlags::BLOCK_MEM, SelfAccess::ByPolicy)
    } else if Running::now().copies_memory() {
        (
            AccessKind::ProcessVm,
            ScopeFlags::BLOCK_MEM,
            SelfAccess::ByPolicy,
        )
    } else {
        (
            AccessKind::Ptrace,
            ScopeFlags::BLOCK_PTRACE,
            SelfAccess::Never,
        )
    };
    decide(&AccessRequest {
        sealed,
        task: child,
        tgid,
        what,
        guarded_by: unless_agents(sealed, guarded_by),
        own,
        name: [0; COMM_LEN],
    })
}

/// The policy's switch; an agent is guarded whatever the policy switches off.
#[inline(always)]
fn unless_agents(sealed: Sealed, switch: ScopeFlags) -> ScopeFlags {
    if sealed.flags.contains(SealedFlags::AGENT) {
        ScopeFlags::empty()
    } else {
        switch
    }
}

/// Whether the running task has the very memory that it reaches for, as a leak checker that a program
/// starts within itself does (`CLONE_VM`): it is told nothing that it could not read anyway.
#[inline(always)]
fn shares_memory(child: Ptr) -> bool {
    let memory: Ptr = load!(child, task_mm);
    !memory.is_null() && memory as usize == field!(kernel::own_task(), task_mm as usize)
}

/// A sealed process asks its parent to trace it.
#[lsm(hook = "ptrace_traceme")]
pub fn ptrace_traceme(_ctx: LsmContext) -> i32 {
    let Some(sealed): Option<Sealed> = sealed::current() else {
        return 0;
    };
    decide(&AccessRequest {
        sealed,
        task: kernel::current(),
        tgid: kernel::current_tgid(),
        what: AccessKind::Ptrace,
        guarded_by: ScopeFlags::BLOCK_PTRACE,
        own: SelfAccess::Never,
        name: [0; COMM_LEN],
    })
}
