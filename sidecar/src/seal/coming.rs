//! Programs that are coming: under a terminal we are attached before the exec, which takes its time, be it for a slow disk
//! or because somebody wants us to wait. Each has a tracer of its own, so that the others get theirs meanwhile.

use std::sync::mpsc::{self, TryRecvError};

use nix::{sys::ptrace, unistd::Pid};
use sidecar_common::policy::Held;

use super::{
    Order, Orders, Work,
    held::{HeldTask, HoldError},
    tracee::{Traced, Tracee, Tracer, lost},
};

/// Others come when one of these has: each takes some 40 KiB.
const MOST_AT_ONCE: usize = 256;

type Outcome = Result<(), HoldError>;

/// One of them.
pub(super) struct Coming {
    held: Held,
    tracer: Tracer,
    /// Of what the tracer was asked to do last.
    outcome: mpsc::Receiver<Outcome>,
    /// The kernel side was told that we are attached.
    may_execute: bool,
}

impl Work {
    /// Whether that is under way; its exec may have taken place by now.
    pub(super) fn is_coming(&self, tgid: u32, held: &Held) -> bool {
        let coming = self.coming.get(&tgid);
        coming.is_some_and(|coming| coming.held.start_ns == held.start_ns)
    }

    /// Begins to attach to one.
    pub(super) fn await_coming(&mut self, tgid: u32, held: &Held) {
        if let Some(Coming { held: gone, .. }) = self.coming.remove(&tgid) {
            // Its number is another's by now.
            self.arrived(tgid, &gone, Err(HoldError::Gone));
        }
        if self.coming.len() == MOST_AT_ONCE {
            self.is_crowded = true;
            return;
        }
        let mut options =
            ptrace::Options::PTRACE_O_TRACEEXEC | ptrace::Options::PTRACE_O_TRACESYSGOOD;
        options.set(ptrace::Options::PTRACE_O_EXITKILL, self.dies_with_us());
        let (notice, outcome) = Notice::of(tgid, &self.orders);
        let pid = Pid::from_raw(held.pid.cast_signed());
        match Tracer::start(pid, options, |attached| notice.give(attached)) {
            Ok(tracer) => {
                let coming = Coming {
                    held: *held,
                    tracer,
                    outcome,
                    may_execute: false,
                };
                self.coming.insert(tgid, coming);
            }
            Err(cause) => {
                let what = "start a thread that attaches to it";
                self.arrived(tgid, held, Err(HoldError::Os { what, cause }));
            }
        }
    }

    /// One of them stands: before its exec, which we let it begin, or behind it.
    pub(super) fn proceed(&mut self, tgid: u32) {
        let Some(coming) = self.coming.get_mut(&tgid) else {
            return;
        };
        let outcome = match coming.outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Disconnected) => Err(lost()),
            // (the notice was of the one before it)
            Err(TryRecvError::Empty) => return,
        };
        if outcome.is_ok() && !coming.may_execute {
            // (the kernel side has forgotten one that executed something else meanwhile)
            coming.may_execute = self.maps.tell_seized(tgid, &coming.held).is_ok();
            if coming.may_execute {
                let notice;
                (notice, coming.outcome) = Notice::of(tgid, &self.orders);
                let tracer = &coming.tracer;
                return tracer.begin(|tracee| notice.give(tracee.see_through_exec()));
            }
        }
        let Some(Coming {
            held,
            tracer,
            may_execute,
            ..
        }) = self.coming.remove(&tgid)
        else {
            return;
        };
        let mut traced = Traced::There(tracer);
        match outcome {
            Ok(()) if may_execute => {
                let task = HeldTask::take(&held, traced);
                self.arrived(tgid, &held, task);
            }
            // It goes on as what it was. Off the books first, or its next exec would be taken for one that we see.
            Ok(()) | Err(HoldError::NotExecuted) => {
                self.maps.forget_if(tgid, &held);
                let _ = traced.ask(Tracee::detach);
                self.look_at_other(tgid, &held);
            }
            Err(e) => {
                self.arrived(tgid, &held, Err(e));
                self.look_at_other(tgid, &held);
            }
        }
        if std::mem::take(&mut self.is_crowded) {
            self.catch_up();
        }
    }

    /// What its process executed since: while we were attached nobody looked at that.
    fn look_at_other(&mut self, tgid: u32, held: &Held) {
        if let Ok(Some(now)) = self.maps.held(tgid)
            && now.seal != held.seal
        {
            self.live(tgid, &now);
        }
    }
}

/// Tells the delivering thread, when it is dropped, that there is an outcome.
struct Notice {
    tgid: u32,
    orders: Orders,
    outcome: Option<mpsc::Sender<Outcome>>,
}

impl Notice {
    fn of(tgid: u32, orders: &Orders) -> (Self, mpsc::Receiver<Outcome>) {
        let (tell, told) = mpsc::channel();
        let notice = Self {
            tgid,
            orders: orders.clone(),
            outcome: Some(tell),
        };
        (notice, told)
    }

    fn give(self, outcome: Outcome) {
        if let Some(tell) = &self.outcome {
            // (nobody waits for one whose number is another's)
            let _ = tell.send(outcome);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // First the end of what was told, for the other side looks when it is woken.
        self.outcome = None;
        if let Err(e) = self.orders.give(Order::Proceed(self.tgid)) {
            tracing::error!("the delivering thread cannot be woken: {e}");
        }
    }
}
