//! How a seal is passed on and how it ends: fork, exit, and the number's return to the pool.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_send_signal,
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext, RawTracePointContext},
};
use sidecar_common::{
    event::{Exit, ExitFlags, RecordKind, RefusalReason},
    layout::SEALED_FOR_NEWBORN,
    policy::{Held, HeldFlags, Sealed, SealedFlags},
    proof::Proof,
};

use crate::{
    guard::self_test::fired,
    kernel::{self, Number, Ptr, load, off},
    report, ring,
    sealed::{self, HELD, SCOPE_LEASES},
};

const SIGKILL: u32 = 9;

/// A child is sealed before it runs (the tracepoint is before `wake_up_new_task`).
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: Ptr = ctx.arg(0);
    let child: Ptr = ctx.arg(1);
    let tgid: u32 = load!(parent, task_tgid);
    let child_tgid: u32 = load!(child, task_tgid);
    // not for a thread
    if child_tgid != tgid && sealed::may_be_sealed(tgid) {
        let start_ns = || kernel::start_of_typed(parent);
        inherit(parent, start_ns, tgid, child_tgid, load!(child, task_start));
    }
    0
}

/// Passes a seal on.
#[inline(always)]
fn inherit(
    parent: Ptr,
    parents_start: impl FnOnce() -> u64,
    tgid: u32,
    child_tgid: u32,
    start_ns: u64,
) {
    let Some(sealed) = sealed::get(tgid, parents_start) else {
        return;
    };
    if sealed.flags.contains(SealedFlags::EXECING) {
        return; // a child from before the secrets
    }
    let inherited = Sealed {
        start_ns,
        // an agent's helper is guarded like the agent
        flags: sealed.flags & SealedFlags::AGENT,
        ..sealed
    };
    if sealed::put(child_tgid, &inherited).is_ok() {
        sealed::tree_join(sealed.seal);
    } else if !sealed.flags.contains(SealedFlags::AGENT) {
        // A child outside the seal would show the secrets, and nothing here keeps it from starting: a program can
        // only signal itself. [`task_alloc`] sees to it that there is room; should there be none, it is told.
        // SAFETY: the helper has no preconditions; the signal is for the running task.
        unsafe { bpf_send_signal(SIGKILL) };
        report_fork(&sealed, tgid, parent, RefusalReason::ForkUnsealed);
    }
}

/// The same once more, just before the child first runs, where tracepoints may be missed: here the
/// run queue's lock is held, and nothing comes in between. Attached only there.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    let child: Ptr = ctx.arg(0);
    let child_tgid: u32 = load!(child, task_tgid);
    let tgid = kernel::current_tgid();
    if child_tgid == tgid || !sealed::may_be_sealed(tgid) {
        return 0;
    }
    let start_ns: u64 = load!(child, task_start);
    if sealed::get(child_tgid, || start_ns).is_none() {
        let parent = kernel::current();
        inherit(parent, kernel::own_start, tgid, child_tgid, start_ns);
    }
    0
}

/// No thread is left to run: tell the agent, and if it was the agent, say so. Two threads that end at once may both come to
/// this, and another than the one that comes here may still have the memory: the seal stays until the process is freed.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let signal: Ptr = load!(task, task_signal);
    if load!(signal, signal_live as u32) != 0 {
        return 0;
    }
    let tgid: u32 = load!(task, task_tgid);
    if sealed::may_be_sealed(tgid) {
        if let Some(sealed) = sealed::get(tgid, || kernel::start_of_typed(task))
            && sealed::end_once(tgid, sealed.start_ns)
        {
            end(task, tgid, &sealed);
        }
    }
    0
}

#[inline(always)]
fn end(task: Ptr, tgid: u32, sealed: &Sealed) {
    let leader: Ptr = load!(task, task_leader);
    let comm = (kernel::untyped(leader as u64) as Ptr).wrapping_add(off!(task_comm));
    let held = unhold(tgid);
    // (its agent may be attached, and then its parent does not hear before the agent has)
    let is_waited_for = held.is_some();
    if let Some((seal, earlier)) = held
        && seal == sealed.seal
        && earlier.seal != 0
    {
        leave(&earlier, tgid, 0, 0, comm, false);
    }
    if sealed.flags.contains(SealedFlags::AGENT) {
        if let Some(scope) = SCOPE_LEASES.get_ptr_mut(sealed.scope) {
            // SAFETY: a live map value.
            unsafe {
                if (*scope).agent == tgid && (*scope).agent_start_ns == sealed.start_ns {
                    (*scope).agent = 0;
                }
            }
        }
        return;
    }
    if sealed.flags.contains(SealedFlags::EXECING) {
        return; // it never came to have secrets
    }
    let pid = kernel::untyped(load!(leader, task_thread_pid)) as Ptr;
    let pid = sealed::number_in(pid, sealed.scope);
    leave(
        sealed,
        tgid,
        pid,
        load!(task, task_exit_code),
        comm,
        is_waited_for,
    );
}

/// Takes a process off what is held. Gives the seal it was held with and the one it had before, to who took it off.
#[inline(always)]
fn unhold(tgid: u32) -> Option<(u64, Sealed)> {
    let held = HELD.get_ptr(tgid)?;
    // SAFETY: a live map value; an entry used again meanwhile has another seal, and is not removed twice.
    let (seal, earlier, is_coming, scope) = unsafe {
        let held = &*held;
        let is_coming = held.flags.contains(HeldFlags::PRE_EXEC);
        (held.seal, earlier_of(held), is_coming, held.scope)
    };
    HELD.remove(tgid).ok()?;
    if is_coming {
        // (its agent may be attached, and then its parent does not hear before the agent has)
        report::held(scope, tgid);
    }
    Some((seal, earlier))
}

/// The seal that a held process had before.
#[inline(always)]
pub(crate) fn earlier_of(held: &Held) -> Sealed {
    Sealed {
        seal: held.earlier_seal,
        start_ns: held.start_ns,
        scope: held.earlier_scope,
        flags: held.earlier_flags,
    }
}

/// A held program goes its way with its secrets: it is no longer of the tree it was of before. Its agent runs this, with the
/// process's number in the kernel's eyes; returns 1 if it was held.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn settle(ctx: *mut c_void) -> u32 {
    let tgid: u32 = RawTracePointContext::new(ctx).arg(0);
    let Some(held) = HELD.get_ptr(tgid) else {
        return 0;
    };
    // SAFETY: a live map value.
    let pid = unsafe { (*held).pid };
    let Some((_, earlier)) = unhold(tgid) else {
        return 0;
    };
    if earlier.seal != 0 {
        // (its agent knows its name)
        leave(&earlier, tgid, pid, 0, core::ptr::null(), false);
    }
    1
}

/// A process leaves its tree: the agent hears of the one that was given the seal, and of the last. At once where it has something
/// to do then.
#[inline(always)]
pub(crate) fn leave(
    sealed: &Sealed,
    tgid: u32,
    pid: u32,
    status: u32,
    comm: Ptr,
    is_waited_for: bool,
) {
    let left = sealed::tree_leave(sealed.seal);
    let mut flags = ExitFlags::empty();
    flags.set(ExitFlags::ROOT, sealed.flags.contains(SealedFlags::ROOT));
    flags.set(ExitFlags::LAST, left.is_empty);
    if flags.is_empty() {
        return;
    }
    if let Some(mut entry) = ring::reserve::<Exit>(sealed.scope, sealed.seal as u32) {
        entry.write(Exit {
            header: ring::header(RecordKind::Exit, tgid),
            seal: sealed.seal,
            pid,
            flags,
            status,
            reserved: 0,
            // (a thread may have a name of its own)
            comm: kernel::read_buf(comm, 0),
        });
        entry.submit(if is_waited_for || left.is_empty && left.has_files {
            ring::NOW
        } else {
            ring::in_passing(sealed.scope, sealed.seal as u32)
        });
    }
}

/// A sealed process is about to fork: not where its child might not be sealed.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    /// uapi/linux/sched.h
    const CLONE_THREAD: u64 = 0x10000;
    const EAGAIN: i64 = 11;
    let tgid = kernel::current_tgid();
    if !sealed::may_be_sealed(tgid) {
        return 0;
    }
    fired(Proof::TaskAlloc);
    if !sealed::has_only(SEALED_FOR_NEWBORN) {
        return 0;
    }
    if ctx.arg::<u64>(1) & CLONE_THREAD != 0 {
        return 0;
    }
    let Some(sealed) = sealed::current().filter(|own| {
        !own.flags
            .intersects(SealedFlags::AGENT | SealedFlags::EXECING)
    }) else {
        return 0;
    };
    report_fork(&sealed, tgid, kernel::current(), RefusalReason::NoFork);
    kernel::error::<EAGAIN>()
}

#[inline(always)]
fn report_fork(sealed: &Sealed, tgid: u32, parent: Ptr, reason: RefusalReason) {
    let number = Number {
        namespace: sealed.scope,
        nr: sealed::number_in(kernel::pid_of(parent), sealed.scope),
    };
    report::refused(number, tgid, reason, parent.wrapping_add(off!(task_comm)));
}

/// The seal goes when the process is freed: its memory may outlive the tracepoint of its exit (always, since 6.16). And where
/// that tracepoint was missed, as may be since 7.0 (see [`crate::exec::bprm_committed_creds`]), the end is dealt with: here
/// nothing preempts us, for the kernel frees what it waited for with RCU in a softirq. By now the process has no number in
/// any namespace, and is told of with 0.
#[btf_tracepoint(function = "sched_process_free")]
pub fn sched_process_free(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let tgid: u32 = load!(task, task_tgid);
    // threads are freed one by one; the process's own number is its leader's
    if load!(task, task_pid as u32) != tgid || !sealed::may_be_sealed(tgid) {
        return 0;
    }
    let start_ns: u64 = load!(task, task_start);
    sealed::end_namespace_of(tgid, start_ns);
    let is_to_end = sealed::end_at_last(tgid, start_ns);
    // (its number may be another process's by now)
    let Some(sealed) = sealed::entry(tgid).filter(|sealed| sealed.start_ns == start_ns) else {
        return 0;
    };
    if is_to_end && !sealed.flags.contains(SealedFlags::VOID) {
        end(task, tgid, &sealed);
    }
    sealed::forget(tgid);
    0
}
