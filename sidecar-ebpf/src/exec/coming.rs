//! A program waits for its agent before its exec: the system call begins anew until the agent is attached.

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_send_signal_thread};
use sidecar_common::policy::{Held, HeldFlags, MAX_COMING_NS};

use super::{SIGSTOP, identity, let_go};
use crate::{
    kernel::{self, Ptr, field, follow, off, read},
    report, sealed,
};

/// The kernel's own (include/linux/errno.h): begin the system call anew, whatever the signal.
const ERESTARTNOINTR: i64 = 513;
const SIGCONT: u32 = 18;
/// Of `task_struct.ptrace`: the tracer has the task stop at the event of an exec (`PT_TRACE_EXEC`, include/linux/ptrace.h).
const STOPS_AT_EXEC: u32 = 1 << 7;

/// Whether the agent is attached to a task, to have it stop at its exec. From here to the end of the exec that stays so: to
/// attach takes `cred_guard_mutex`, which the exec has.
#[inline(always)]
pub(super) fn is_seized_by(agent: u32, tracing: u32, task: Ptr) -> bool {
    let tracer = || read::<u32>(follow(task, off!(task_tracer)), off!(task_tgid));
    tracing & STOPS_AT_EXEC != 0 && tracer() == agent
}

/// A stop by a signal would show: the parent hears of it by `SIGCHLD` and by `waitpid`, and a shell takes its terminal
/// back. So the agent attaches before the exec, and has the program stop at the exec's event, of which nobody else hears.
/// Until it is attached the system call starts over, again and again: the program before stands still,
/// this one has not begun, and whatever may end or preempt a process still may.
#[inline(always)]
pub(super) fn wait_for_agent(tgid: u32, pending: &mut Held, agent: u32) -> i32 {
    let task = kernel::own_task();
    let tracing = field!(task, task_ptrace as u32);
    let thread = kernel::current_pid();
    if let Some(held) = coming_by(tgid, pending.start_ns) {
        if held.flags.contains(HeldFlags::WAIVED) {
            // the agent gave up, and by its policy the program starts without
            let_go(tgid, pending.start_ns);
            return 0;
        }
        if held.kernels_thread() != thread {
            // another thread waits already: what this one begins would not have its tracer
            return kernel::eperm();
        }
        if is_seized_by(agent, tracing, task) {
            if let Some(held) = sealed::HELD.get_ptr_mut(tgid) {
                // SAFETY: a live map value. Its agent may write another in its place just now, that of one that it gives up: of
                // such a one nothing is told.
                unsafe { (*held).flags |= HeldFlags::LET_ON };
            }
            return 0;
        }
        if tracing != 0 {
            // somebody else was first, and it is stopped as what is traced is
            let _ = sealed::HELD.remove(tgid);
            return 0;
        }
        // SAFETY: the helper has no preconditions.
        if unsafe { bpf_ktime_get_ns() } > held.since_ns + MAX_COMING_NS {
            let_go(tgid, pending.start_ns);
            return kernel::eperm();
        }
    } else {
        // What is traced cannot be attached to, and what the kernel starts itself begins no system call anew: both are
        // stopped after their exec.
        if tracing != 0 || field!(task, task_mm as usize) == 0 {
            return 0;
        }
        pending.flags = HeldFlags::PRE_EXEC;
        if field!(task, task_blocked as u64) & (1 << (SIGCONT - 1)) != 0 {
            pending.flags |= HeldFlags::CONTINUED;
        }
        let number = sealed::number_in(kernel::own_thread(), pending.scope);
        pending.stack = Held::of_thread(thread, number);
        // SAFETY: the helper has no preconditions.
        pending.since_ns = unsafe { bpf_ktime_get_ns() };
        if sealed::HELD.insert(tgid, &*pending, 0).is_err() {
            return 0; // and then there is no place for it either
        }
        report::held(pending.scope, tgid);
    }
    begin_anew(tgid, pending.start_ns)
}

/// A file is opened to be executed. What its program waits for already, it waits for here from then on: the exec has cost less so
/// far, and does not stand in its own agent's way (it has `cred_guard_mutex` for a moment only, and since 6.8 not yet). Where
/// there is something to decide, [`bprm_creds_for_exec`] does.
#[inline(never)]
pub(crate) fn open(file: Ptr) -> i32 {
    let tgid = kernel::current_tgid();
    if !sealed::may_be_sealed(tgid) {
        return 0;
    }
    let start_ns = kernel::own_start();
    let Some(held) = coming_by(tgid, start_ns) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let waits = !held.flags.contains(HeldFlags::WAIVED)
        && held.kernels_thread() == kernel::current_pid()
        && field!(kernel::own_task(), task_ptrace as u32) == 0
        && now < held.since_ns + MAX_COMING_NS
        && identity(file) == (held.file_dev, held.file_ino)
        && sealed::scope(held.scope).is_some_and(|scope| scope.agent != 0);
    if waits { begin_anew(tgid, start_ns) } else { 0 }
}

/// What is known of a process that waits for its agent before an exec.
#[inline(always)]
pub(super) fn coming_by(tgid: u32, start_ns: u64) -> Option<&'static Held> {
    // SAFETY: a live map value; its agent only replaces it.
    let held = unsafe { sealed::HELD.get(tgid) };
    held.filter(|held| held.flags.contains(HeldFlags::PRE_EXEC) && held.start_ns == start_ns)
}

/// A system call starts over where a signal is pending that comes to nothing. A stop that is
/// taken back is one: it leaves the task marked, and no parent hears of it. To this thread alone: another
/// might take the stop before it is taken back.
#[inline(always)]
pub(super) fn begin_anew(tgid: u32, start_ns: u64) -> i32 {
    // SAFETY: the helper has no preconditions; the signals are for the running task.
    if unsafe { bpf_send_signal_thread(SIGSTOP) != 0 || bpf_send_signal_thread(SIGCONT) != 0 } {
        let_go(tgid, start_ns);
        return kernel::eperm();
    }
    kernel::error::<ERESTARTNOINTR>()
}
