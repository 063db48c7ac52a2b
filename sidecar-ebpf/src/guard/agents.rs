//! An agent's neighbours in its pod neither stop it nor look into it. The node outside of the pod does
//! as ever: its runtime ends the container.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use sidecar_common::{
    event::AccessKind,
    layout::COMM_LEN,
    policy::{ScopeFlags, Sealed, SealedFlags},
    proof::Proof,
};

use super::{AccessRequest, SelfAccess, decide, self_test::fired};
use crate::{
    kernel::{self, Ptr, load},
    sealed,
};

const PRLIMIT: [u8; COMM_LEN] = *b"prlimit\0\0\0\0\0\0\0\0\0";
const PRIORITY: [u8; COMM_LEN] = *b"priority\0\0\0\0\0\0\0\0";

/// A signal. What the kernel itself sends (the end of a parent, want of memory) is not asked about.
#[lsm(hook = "task_kill")]
pub fn task_kill(ctx: LsmContext) -> i32 {
    /// It stops nobody, and an agent sends it at every release.
    const SIGCONT: u32 = 18;
    let signal: u32 = ctx.arg(2);
    // 0 asks whether it is there
    if signal == 0 {
        fired(Proof::TaskKill);
        0
    } else if signal == SIGCONT {
        0
    } else {
        done_to(ctx.arg(0), *b"signal\0\0\0\0\0\0\0\0\0\0")
    }
}

/// A resource limit (`prlimit`): one on processor time ends the agent, one on descriptors makes it deaf. A sealed
/// program's on core dumps is its agent's to set, and its own.
#[lsm(hook = "task_setrlimit")]
pub fn task_setrlimit(ctx: LsmContext) -> i32 {
    /// uapi/asm-generic/resource.h
    const RLIMIT_CORE: u32 = 4;
    let task: Ptr = ctx.arg(0);
    let tgid: u32 = load!(task, task_tgid);
    let Some(sealed) = sealed::get_typed_with_newborn(task, tgid) else {
        return 0;
    };
    if sealed.flags.contains(SealedFlags::AGENT) {
        fired(Proof::TaskSetrlimit);
        reach(task, tgid, sealed, PRLIMIT, true)
    } else if ctx.arg::<u32>(1) == RLIMIT_CORE {
        decide(&AccessRequest {
            sealed,
            task,
            tgid,
            what: AccessKind::Named,
            guarded_by: ScopeFlags::BLOCK_MEM,
            own: SelfAccess::Always,
            name: PRLIMIT,
        })
    } else {
        0
    }
}

/// Its turn on the processor: its class, its processors.
#[lsm(hook = "task_setscheduler")]
pub fn task_setscheduler(ctx: LsmContext) -> i32 {
    fired(Proof::TaskSetscheduler);
    done_to(ctx.arg(0), PRIORITY)
}

/// The same, by a number.
#[lsm(hook = "task_setnice")]
pub fn task_setnice(ctx: LsmContext) -> i32 {
    fired(Proof::TaskSetnice);
    done_to(ctx.arg(0), PRIORITY)
}

/// The same at the disk.
#[lsm(hook = "task_setioprio")]
pub fn task_setioprio(ctx: LsmContext) -> i32 {
    done_to(ctx.arg(0), PRIORITY)
}

/// A signal that a file sends (`F_SETOWN` with `F_SETSIG`, which may be SIGKILL): its owner set it up
/// earlier, so who runs now tells nothing. No agent has such files.
#[lsm(hook = "file_send_sigiotask")]
pub fn file_send_sigiotask(ctx: LsmContext) -> i32 {
    if agent(ctx.arg(0)).is_some() {
        kernel::eperm()
    } else {
        0
    }
}

/// The task's process number and seal, if it is an agent's.
#[inline(always)]
fn agent(task: Ptr) -> Option<(u32, Sealed)> {
    let tgid: u32 = load!(task, task_tgid);
    sealed::get(tgid, || kernel::start_of_typed(task))
        .filter(|sealed| sealed.flags.contains(SealedFlags::AGENT))
        .map(|sealed| (tgid, sealed))
}

#[inline(always)]
fn done_to(task: Ptr, name: [u8; COMM_LEN]) -> i32 {
    match agent(task) {
        Some((tgid, sealed)) => reach(task, tgid, sealed, name, true),
        None => 0,
    }
}

/// A look into an agent: its root directory, where the files are that secrets come from, its
/// namespaces, its descriptors.
#[inline(always)]
pub(super) fn looked_into(task: Ptr, tgid: u32, sealed: Sealed, is_told: bool) -> i32 {
    fired(Proof::PtraceAccess);
    reach(task, tgid, sealed, *b"agent\0\0\0\0\0\0\0\0\0\0\0", is_told)
}

#[inline(always)]
fn reach(task: Ptr, tgid: u32, sealed: Sealed, name: [u8; COMM_LEN], is_told: bool) -> i32 {
    if !sealed::is_neighbour(sealed.scope) {
        return 0;
    }
    if !is_told {
        return kernel::eperm();
    }
    decide(&AccessRequest {
        sealed,
        task,
        tgid,
        what: AccessKind::Named,
        guarded_by: ScopeFlags::empty(),
        own: SelfAccess::Never,
        name,
    })
}
