//! Programs that are coming: we are attached before the exec, and each stops behind it. The exec takes its time, be it for a slow
//! disk or because somebody wants us to wait, and the others get theirs meanwhile: what is followed is looked at when the
//! kernel side tells that it has executed, and else from time to time. One that cannot be attached to at once, because its
//! process is in the middle of such an exec, has a tracer of its own.

use std::{
    sync::mpsc::TryRecvError,
    thread,
    time::{Duration, Instant},
};

use nix::{sys::ptrace, unistd::Pid};
use sidecar_common::policy::{Held, HeldFlags};

use super::{
    Work,
    arrivals::{FIRST_LOOK, Notice, PendingExec, Standing, Way},
    held::{HeldTask, HoldError},
    tracee::{Progress, Tracee},
    tracer::{Traced, Tracer, lost},
};
use crate::{config::OnFailure, process::Process};

/// Tracers of their own, of all threads that deliver; others get one when one of these has ended: each takes some 40 KiB.
const MOST_APART: usize = 256;
/// Between two looks at one that is followed, at the longest.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// [`FIRST_LOOK`] of one of which the kernel side has told that it has executed, or has ended: that is a matter of a few instructions.
const FIRST_LOOK_TOLD: Duration = Duration::from_micros(100);

impl Work {
    /// A program that is held, or is about to be.
    pub(super) fn comes(&mut self, tgid: u32, held: &Held) {
        if self.waits(held) || self.arrivals.standing.contains_key(&held.seal) {
            return;
        }
        let is_coming = held.flags.contains(HeldFlags::PRE_EXEC);
        match self.arrivals.coming.get_mut(&tgid) {
            Some(coming) if coming.held.start_ns == held.start_ns => {
                if !is_coming && held.flags.contains(HeldFlags::SEIZED) {
                    coming.held = *held;
                    self.has_changed(tgid);
                }
            }
            // Its number is another's by now.
            Some(_) => {
                if let Some(gone) = self.arrivals.remove(tgid) {
                    self.report_gone(tgid, &gone.held, HoldError::Gone);
                }
                self.comes(tgid, held);
            }
            None if is_coming => self.attach(tgid, held),
            None => self.arrivals.stands(tgid, held, Standing::Stopped),
        }
    }

    /// Begins to attach to one.
    fn attach(&mut self, tgid: u32, held: &Held) {
        let thread = Pid::from_raw(held.agents_thread().cast_signed());
        let mut options =
            ptrace::Options::PTRACE_O_TRACEEXEC | ptrace::Options::PTRACE_O_TRACESYSGOOD;
        options.set(ptrace::Options::PTRACE_O_EXITKILL, self.dies_with_us());
        match Tracee::follow(thread, options, &mut self.deadline) {
            // (Its exec takes as long as others leave it a processor: while they come along it is not late.)
            Ok(Some(tracee)) => self.arrivals.follow(tgid, held, tracee),
            // (One that has a tracer of its own keeps that from others, and is late: from here on it is its own exec that it
            // waits for.)
            Ok(None) => self.attach_apart(tgid, held, thread, options),
            Err(e) => self.not_attached(tgid, held, e),
        }
    }

    fn attach_apart(&mut self, tgid: u32, held: &Held, thread: Pid, options: ptrace::Options) {
        if self.arrivals.apart >= MOST_APART / self.share.of {
            self.arrivals.is_crowded = true;
            return;
        }
        self.turns.begin(held.seal);
        let (notice, outcome) = Notice::of(tgid, &self.commands);
        match Tracer::start(thread, options, |done| notice.give(done)) {
            Ok(tracer) => {
                self.arrivals.apart += 1;
                let way = Way::Apart { tracer, outcome };
                self.arrivals
                    .coming
                    .insert(tgid, PendingExec { held: *held, way });
            }
            Err(cause) => {
                let what = "start a thread that attaches to it";
                self.report_gone(tgid, held, HoldError::Os { what, cause });
            }
        }
    }

    /// Somebody else may have been first: the kernel side sees that, and holds the program as what is traced is held.
    fn not_attached(&mut self, tgid: u32, held: &Held, e: HoldError) {
        let is_refused = matches!(&e, HoldError::Os { cause, .. } if cause.raw_os_error() == Some(nix::libc::EPERM));
        if is_refused && Process::new(held.pid).tracer().is_some() {
            return;
        }
        let is_refused_as_ended = is_refused && Process::new(held.pid).has_ended();
        let e = if is_refused_as_ended {
            HoldError::Gone
        } else {
            e
        };
        self.report_gone(tgid, held, e);
    }

    /// The kernel side has something to tell of one, if it is coming.
    pub(super) fn has_changed(&mut self, tgid: u32) {
        if let Some(PendingExec {
            way: Way::Followed {
                interval, is_told, ..
            },
            ..
        }) = self.arrivals.coming.get_mut(&tgid)
        {
            (*interval, *is_told) = (FIRST_LOOK_TOLD, true);
            self.look_at(tgid);
        }
    }

    /// Looks at those that are due.
    pub(super) fn look_at_coming(&mut self) {
        let now = Instant::now();
        while let Some((at, tgid)) = self.arrivals.looks.first().copied()
            && at <= now
        {
            self.look_at(tgid);
        }
    }

    /// What has one come to that is followed?
    fn look_at(&mut self, tgid: u32) {
        /// How often at once: on a single processor it has to run for that, and does not take long.
        const TRIES: u32 = 3;
        let Some(PendingExec { held, way }) = self.arrivals.coming.get_mut(&tgid) else {
            return;
        };
        let Way::Followed {
            tracee,
            next,
            interval,
            is_told,
            was_trapped,
        } = way
        else {
            return;
        };
        let process = Pid::from_raw(held.pid.cast_signed());
        let is_ending = self.is_ending;
        let mut progress = tracee.look(process);
        for _ in 0..TRIES {
            if !(*is_told && matches!(progress, Ok(Progress::Running))) {
                break;
            }
            thread::yield_now();
            progress = tracee.look(process);
        }
        let result = match progress {
            Ok(Progress::Executed) => return self.has_executed(tgid),
            // (One that has not come to its exec since, for want of a processor, would be let go and come once more: where we end
            // nobody would be there for it, and it would start without its secrets.)
            Ok(Progress::Trapped)
                if *was_trapped && !(is_ending && tracee.executes_anew().unwrap_or(false)) =>
            {
                return self.has_not_executed(tgid);
            }
            // It is about to begin the system call anew, now that we are attached, or will not any more.
            Ok(Progress::Trapped) => {
                *was_trapped = true;
                *interval = FIRST_LOOK;
                tracee.go_on(None)
            }
            Ok(Progress::Running) if *is_told && *interval < FIRST_LOOK => {
                *interval *= 4;
                Ok(())
            }
            // What is in the middle of an exec, for whatever reason, stops behind that.
            Ok(Progress::Running) => {
                *interval = (*interval * 2).min(LAST_LOOK);
                tracee.interrupt()
            }
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => {
                self.arrivals.looks.remove(&(*next, tgid));
                *next = Instant::now() + *interval;
                self.arrivals.looks.insert((*next, tgid));
            }
            Err(e) => {
                if let Some(gone) = self.arrivals.remove(tgid) {
                    self.report_gone(tgid, &gone.held, e);
                }
                self.look_at_other(tgid);
            }
        }
    }

    /// One that is followed stands behind an exec.
    fn has_executed(&mut self, tgid: u32) {
        if let Some(PendingExec {
            held,
            way: Way::Followed { tracee, .. },
        }) = self.arrivals.remove(tgid)
        {
            self.has_come(tgid, &held, Traced::Here(tracee));
        }
    }

    fn has_come(&mut self, tgid: u32, held: &Held, mut traced: Traced) {
        if !held.flags.contains(HeldFlags::PRE_EXEC) {
            return self.arrivals.stands(tgid, held, Standing::Traced(traced));
        }
        // (its record is still to come, or was lost)
        match self.maps.held(tgid) {
            Ok(Some(now))
                if now.start_ns == held.start_ns && !now.flags.contains(HeldFlags::PRE_EXEC) =>
            {
                self.arrivals.stands(tgid, &now, Standing::Traced(traced));
            }
            // What it executed is something else (a shell, for a script without `#!`); the kernel side has forgotten it.
            Ok(_) => {
                self.maps.forget_if(tgid, held);
                // (one that the kernel side ends is not let go, and was told of)
                match traced.ask(Tracee::detach) {
                    Ok(()) => self.report_not_executed(held),
                    Err(_) => self.turns.end(held.seal),
                }
            }
            Err(e) => {
                let process = Process::new(held.pid);
                let place = self.place_of(held, process);
                let task = HeldTask::take(held, traced).ok();
                self.refuse(tgid, held, &place, task, &e.into());
            }
        }
    }

    /// It goes on as what it was. Off the books first, or its next exec would be taken for one that we see.
    fn has_not_executed(&mut self, tgid: u32) {
        if let Some(PendingExec {
            held,
            way: Way::Followed { mut tracee, .. },
        }) = self.arrivals.remove(tgid)
        {
            // (one that waits for a lease was interrupted by us)
            let has_failed =
                self.was_let_on(tgid, &held) && !tracee.executes_anew().unwrap_or(true);
            self.maps.forget_if(tgid, &held);
            let _ = tracee.detach();
            if has_failed {
                self.report_not_executed(&held);
            }
            self.look_at_other(tgid);
        }
    }

    /// One that has a tracer of its own stands behind its exec, or that came to nothing.
    pub(super) fn proceed(&mut self, tgid: u32) {
        let Some(PendingExec {
            way: Way::Apart { outcome, .. },
            ..
        }) = self.arrivals.coming.get(&tgid)
        else {
            return;
        };
        let outcome = match outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Disconnected) => Err(lost()),
            // (the notice was of the one before it)
            Err(TryRecvError::Empty) => return,
        };
        let Some(PendingExec {
            held,
            way: Way::Apart { tracer, .. },
        }) = self.arrivals.remove(tgid)
        else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.turns.wait(held.seal);
                self.has_come(tgid, &held, Traced::There(tracer));
            }
            Err(HoldError::NotExecuted) => {
                let mut traced = Traced::There(tracer);
                let has_failed = self.was_let_on(tgid, &held)
                    && !traced.ask(Tracee::executes_anew).unwrap_or(true);
                self.maps.forget_if(tgid, &held);
                let _ = traced.ask(Tracee::detach);
                if has_failed {
                    self.report_not_executed(&held);
                }
                self.look_at_other(tgid);
            }
            Err(e) => {
                drop(tracer);
                self.not_attached(tgid, &held, e);
                self.look_at_other(tgid);
            }
        }
        if std::mem::take(&mut self.arrivals.is_crowded) {
            self.catch_up();
        }
    }

    /// Whether the kernel began with its exec. It did not where a handler of a signal runs instead: the exec is still to come then.
    fn was_let_on(&self, tgid: u32, held: &Held) -> bool {
        let now = self.maps.held(tgid).ok().flatten();
        now.is_some_and(|now| now.seal == held.seal && now.flags.contains(HeldFlags::LET_ON))
    }

    /// What its process executed since: while we were attached nobody looked at that.
    fn look_at_other(&mut self, tgid: u32) {
        if let Ok(Some(now)) = self.maps.held(tgid) {
            self.comes(tgid, &now);
        }
    }

    /// One that was coming has ended, or cannot be attached to.
    fn report_gone(&mut self, tgid: u32, held: &Held, e: HoldError) {
        if matches!(e, HoldError::NotExecuted) {
            // its exec failed, and so it ended
            self.maps.forget_if(tgid, held);
            return self.report_not_executed(held);
        }
        let place = self.place_of(held, Process::new(held.pid));
        self.refuse(tgid, held, &place, None, &e.into());
    }

    /// Serves the next of those that stand, whose turn it is.
    pub(super) fn serve_next(&mut self) {
        let Some((tgid, held, standing)) = self
            .arrivals
            .order
            .pop()
            .and_then(|seal| self.arrivals.standing.remove(&seal))
        else {
            return;
        };
        match standing {
            Standing::Stopped => self.handle_held(tgid, &held),
            Standing::Traced(mut traced) => {
                // It is off the books, and was to start without; but it stands here until we let it go.
                if self.config.policy.on_failure == OnFailure::Allow
                    && self.given_up.take(held.seal)
                {
                    let _ = traced.ask(Tracee::detach);
                    return;
                }
                self.handle_traced(tgid, &held, traced);
            }
        }
    }
}
