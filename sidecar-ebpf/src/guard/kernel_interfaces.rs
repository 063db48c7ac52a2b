//! The kernel's own instruments, with which one process looks into all, or keeps all waiting: performance
//! events, bpf(2), tracefs, memory itself as a file, and fanotify.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use sidecar_common::{
    event::{AccessKind, Verdict},
    layout::COMM_LEN,
    policy::{Scope, ScopeFlags, ScopeId, Sealed, SealedFlags},
    proof::{ANSWER, COMMAND, Proof},
};

use super::{AccessRequest, SelfAccess, decide, finish, pins, self_test::fired};
use crate::{
    kernel::{self, off},
    ring, sealed,
};

const PERF_EVENT: [u8; COMM_LEN] = *b"perf_event\0\0\0\0\0\0";
const BPF: [u8; COMM_LEN] = *b"bpf\0\0\0\0\0\0\0\0\0\0\0\0\0";
const TRACEFS: [u8; COMM_LEN] = *b"tracefs\0\0\0\0\0\0\0\0\0";
const FANOTIFY: [u8; COMM_LEN] = *b"fanotify\0\0\0\0\0\0\0\0";
const KCORE: [u8; COMM_LEN] = *b"kcore\0\0\0\0\0\0\0\0\0\0\0";
const DEV_MEM: [u8; COMM_LEN] = *b"/dev/mem\0\0\0\0\0\0\0\0";

/// Performance events, which sample user memory and registers: with `CAP_PERFMON` the kernel asks
/// nobody about the process they are taken of, and since 6.16 this hook is not told what they
/// sample. So in a pod only its agent opens them, and elsewhere nobody else once something was
/// sealed in the scope.
#[lsm(hook = "perf_event_open")]
pub fn perf_event_open(_ctx: LsmContext) -> i32 {
    let Some((number, scope)) = sealed::scope_of(kernel::own_pid()) else {
        return 0;
    };
    let is_agent = sealed::is_agent_of(&scope);
    if !is_agent && (sealed::is_neighbour(number.namespace) || ring::has_held(number.namespace)) {
        refuse(number.namespace, PERF_EVENT)
    } else {
        0
    }
}

/// Programs, maps and links: ours are edited and taken off here, and others that read memory are
/// loaded.
#[lsm(hook = "bpf")]
pub fn bpf(ctx: LsmContext) -> i32 {
    /// From `BPF_MAP_LOOKUP_ELEM` on: lookup, update, delete, next key. They need a map's
    /// descriptor, which no neighbour comes by; an agent does little else.
    const ELEMENTS: core::ops::RangeInclusive<u32> = 1..=4;
    let command: u32 = ctx.arg(0);
    if ELEMENTS.contains(&command) {
        return 0;
    }
    if command == COMMAND {
        return kernel::error::<ANSWER>();
    }
    match pins::asked_for_by_id(command, ctx.arg(1)) {
        0 => used_by_neighbours(BPF),
        refused => refused,
    }
}

/// What a locked-down kernel keeps from everybody: tracefs, whose probes print a program's memory,
/// and the machine's memory. Of the other reasons none reads a program's memory.
#[lsm(hook = "locked_down")]
pub fn locked_down(ctx: LsmContext) -> i32 {
    // Nothing comes before this: to 5.14 the helper that reads memory asks this hook itself.
    let reason: u32 = ctx.arg(0);
    if reason == off!(lockdown_tracefs) as u32 {
        used_by_neighbours(TRACEFS)
    } else if reason == off!(lockdown_kcore) as u32 {
        used_by_neighbours(KCORE)
    } else if reason == off!(lockdown_dev_mem) as u32 {
        used_by_neighbours(DEV_MEM)
    } else {
        0
    }
}

/// A listener that answers for whoever opens, reads or executes (fanotify). It keeps them waiting, the agent
/// too, and one that is asked before the content is there has the kernel leave an executable open to
/// writers while it runs (6.14).
#[lsm(hook = "path_notify")]
pub fn path_notify(ctx: LsmContext) -> i32 {
    /// `FS_OPEN_PERM`, `FS_ACCESS_PERM`, `FS_OPEN_EXEC_PERM`, and since 6.14 `FS_PRE_ACCESS`
    /// (include/linux/fsnotify_backend.h).
    const ANSWERED: u64 = 0x0001_0000 | 0x0002_0000 | 0x0004_0000 | 0x0010_0000;
    let events: u64 = ctx.arg(1);
    if events & ANSWERED == 0 {
        fired(Proof::PathNotify);
        0
    } else {
        used_by_neighbours(FANOTIFY)
    }
}

/// Refused to an agent's neighbours from its first moment on: what they set up earlier would stay.
/// When the agent is dead the next one must begin: what somebody outside of the pod starts in it may,
/// as a container's runtime does, and nobody that was started inside.
#[inline(always)]
pub(super) fn used_by_neighbours(name: [u8; COMM_LEN]) -> i32 {
    let Some((number, scope)) = sealed::scope_of(kernel::own_pid()) else {
        return 0;
    };
    if is_kept_from(number.namespace, &scope) {
        refuse(number.namespace, name)
    } else {
        0
    }
}

/// Whether the running process, which this scope answers for, is one of those.
#[inline(always)]
pub(super) fn is_kept_from(id: ScopeId, scope: &Scope) -> bool {
    sealed::is_neighbour(id) && !(scope.agent == 0 && is_from_outside(id))
}

/// Refused, in whatever scope and mode, to whoever lives below the node: what is done there is done to all of it. Where a
/// scope answers for who did it, its agent hears.
#[inline(never)]
pub(super) fn refuse_below_node(name: &[u8; COMM_LEN]) -> i32 {
    if let Some((number, _)) = sealed::scope_of(kernel::own_pid()) {
        return finish(&of_nobody(number.namespace, *name), Some(Verdict::Blocked));
    }
    kernel::eperm()
}

/// Whether the running process may become the agent of its PID namespace: that has none, and where it had one in a pod, the
/// process was started from outside.
#[inline(always)]
pub(super) fn may_begin() -> bool {
    let own = kernel::own_number(kernel::own_pid());
    sealed::scope(own.namespace).is_none_or(|scope| {
        scope.agent == 0
            && (!scope.flags.contains(ScopeFlags::POD) || is_from_outside(own.namespace))
    })
}

/// Whether the running process's parent lives outside of the scope.
#[inline(always)]
fn is_from_outside(scope: ScopeId) -> bool {
    let leader = kernel::follow(kernel::current(), off!(task_leader));
    let parent = kernel::follow(leader, off!(task_parent));
    sealed::number_in(kernel::pid_of(parent), scope) == 0
}

/// Nobody is the target of it, so who reached stands there.
#[inline(always)]
fn refuse(scope: ScopeId, name: [u8; COMM_LEN]) -> i32 {
    decide(&of_nobody(scope, name))
}

#[inline(always)]
pub(super) fn of_nobody(scope: ScopeId, name: [u8; COMM_LEN]) -> AccessRequest {
    AccessRequest {
        sealed: Sealed {
            seal: 0,
            start_ns: 0,
            scope,
            flags: SealedFlags::empty(),
        },
        task: kernel::current(),
        tgid: kernel::current_tgid(),
        what: AccessKind::Named,
        guarded_by: ScopeFlags::BLOCK_MEM,
        own: SelfAccess::Never,
        name,
    }
}
