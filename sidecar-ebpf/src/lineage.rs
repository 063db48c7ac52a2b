//! How a seal is passed on and how it ends: fork, exit, and the number's return to the pool.

use aya_ebpf::{
    helpers::generated::bpf_send_signal, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use sidecar_common::{
    event::{EXIT_LAST, EXIT_ROOT, Exit, KIND_EXIT, REASON_FORK_UNSEALED},
    policy::{SEALED_AGENT, SEALED_ENDED, SEALED_EXECING, SEALED_ROOT, SEALED_VOID, Sealed},
};

use crate::{
    exec,
    kernel::{self, Number, Ptr, load, off, read},
    ring,
    sealed::{self, HELD, SCOPES},
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
        inherit(parent, tgid, child_tgid, load!(child, task_start));
    }
    0
}

/// Passes a seal on.
#[inline(always)]
fn inherit(parent: Ptr, tgid: u32, child_tgid: u32, start_ns: u64) {
    let Some(sealed) = sealed::get(tgid, || kernel::start_of(parent)) else {
        return;
    };
    if sealed.flags & SEALED_EXECING != 0 {
        return; // a child from before the secrets
    }
    let inherited = Sealed {
        start_ns,
        // an agent's helper is guarded like the agent
        flags: sealed.flags & SEALED_AGENT,
        ..sealed
    };
    if sealed::put(child_tgid, &inherited).is_ok() {
        sealed::tree_join(sealed.seal);
    } else if sealed.flags & SEALED_AGENT == 0 {
        // A child outside the seal would show the secrets. A program can only signal itself, and
        // the child has not run yet: its parent dies, and the child finds no way to be started.
        // SAFETY: the helper has no preconditions; the signal is for the running task.
        unsafe { bpf_send_signal(SIGKILL) };
        let number = Number {
            namespace: sealed.scope,
            nr: sealed::number_in(kernel::pid_of(parent), sealed.scope),
        };
        let name = parent.wrapping_add(off!(task_comm));
        exec::report_refused(number, tgid, REASON_FORK_UNSEALED, name);
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
        inherit(kernel::current(), tgid, child_tgid, start_ns);
    }
    0
}

/// The last thread is gone: tell the agent, and if it was the agent, say so.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let signal: Ptr = load!(task, task_signal);
    if load!(signal, signal_live as u32) != 0 {
        return 0;
    }
    let tgid: u32 = load!(task, task_tgid);
    if sealed::may_be_sealed(tgid) {
        if let Some(sealed) = sealed::get(tgid, || kernel::start_of(task)) {
            end(task, tgid, &sealed);
        }
        if off!(exit_keeps_memory) == 0 {
            sealed::forget(tgid);
        } else {
            // The memory is still there, and the process would stand open until it is gone.
            sealed::has_ended(tgid);
        }
    }
    end_namespace(task);
    0
}

/// A PID namespace ends with its process 1, and its number is used again at once: an entry that
/// outlived it would speak for a stranger.
#[inline(always)]
fn end_namespace(task: Ptr) {
    let pid: Ptr = load!(task, task_thread_pid);
    if load!(pid, pid_level as u32) == 0 {
        return;
    }
    // (the last thread need not be the leader)
    let own = kernel::own_number(kernel::pid_of(task));
    if own.nr == 1 {
        let _ = SCOPES.remove(own.namespace);
    }
}

#[inline(always)]
fn end(task: Ptr, tgid: u32, sealed: &Sealed) {
    let _ = HELD.remove(tgid);
    if sealed.flags & SEALED_AGENT != 0 {
        if let Some(scope) = SCOPES.get_ptr_mut(sealed.scope) {
            // SAFETY: a live map value.
            unsafe {
                if (*scope).agent == tgid {
                    (*scope).agent = 0;
                }
            }
        }
        return;
    }
    if sealed.flags & SEALED_EXECING != 0 {
        return; // it never came to have secrets
    }
    let pid = sealed::number_in(kernel::pid_of(task), sealed.scope);
    leave(sealed, task, pid, load!(task, task_exit_code));
}

/// A process leaves its tree: the agent hears of the one that was given the seal, and of the last.
#[inline(always)]
pub(crate) fn leave(sealed: &Sealed, task: Ptr, pid: u32, status: u32) {
    let root = if sealed.flags & SEALED_ROOT != 0 {
        EXIT_ROOT
    } else {
        0
    };
    let last = if sealed::tree_leave(sealed.seal) {
        EXIT_LAST
    } else {
        0
    };
    if root | last == 0 {
        return;
    }
    if let Some(mut entry) = ring::reserve::<Exit>(sealed.scope) {
        entry.write(Exit {
            header: ring::header(KIND_EXIT, read(task, off!(task_tgid))),
            seal: sealed.seal,
            pid,
            flags: root | last,
            status,
            reserved: 0,
            // (a thread may have a name of its own)
            comm: kernel::read_buf(kernel::follow(task, off!(task_leader)), off!(task_comm)),
        });
        entry.submit(0);
    }
}

/// Only here the seal goes where the exit's tracepoint comes before the memory is given up (6.16);
/// attached only there. And where that tracepoint was missed, as may be there (see
/// [`exec::bprm_committed_creds`]), the end is dealt with: here nothing preempts us, for the kernel frees what
/// it waited for with RCU in a softirq. By now the process has no number in any namespace, and is told of with 0.
#[btf_tracepoint(function = "sched_process_free")]
pub fn sched_process_free(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let tgid: u32 = load!(task, task_tgid);
    // threads are freed one by one; the process's own number is its leader's
    if load!(task, task_pid as u32) != tgid || !sealed::may_be_sealed(tgid) {
        return 0;
    }
    // (its number may be another process's by now)
    let Some(sealed) =
        sealed::entry(tgid).filter(|sealed| sealed.start_ns == load!(task, task_start))
    else {
        return 0;
    };
    if sealed.flags & (SEALED_ENDED | SEALED_VOID) == 0 {
        end(task, tgid, &sealed);
    }
    sealed::forget(tgid);
    0
}
