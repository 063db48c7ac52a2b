//! Programs that wait until the API has told of their pod, until their file's digest is counted, or until there are descriptors and memory for them. They stand there,
//! attached, while others get theirs.

use std::time::{Duration, Instant};

use sidecar_common::policy::Held;

use super::{Work, deadline_queue::Due, failure::Failure, held::HeldTask};
use crate::{
    process::{Place, Process},
    util::Clock,
};

/// How long one waits for what is lacking, until it is looked for again.
const LACK: Duration = Duration::from_millis(100);

/// One of them.
pub(super) struct Deferred {
    tgid: u32,
    held: Held,
    task: HeldTask,
    until: Instant,
}

impl Deferred {
    /// When it is looked at in any case.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

impl Work {
    /// Whether there is time to wait. A quarter of what there is at all is left for what comes then: the watchdog has no
    /// good reason to tell.
    pub(super) fn may_wait(&self, held: &Held) -> bool {
        !self.is_ending && self.is_time_left(held)
    }

    /// The same at our end.
    pub(super) fn is_time_left(&self, held: &Held) -> bool {
        !self.time_to_wait(held).is_zero()
    }

    fn time_to_wait(&self, held: &Held) -> Duration {
        let since = Clock::monotonic_ns().saturating_sub(self.turns.since_ns(held));
        let longest = self.config.policy.hold_timeout / 4 * 3;
        longest.saturating_sub(Duration::from_nanos(since))
    }

    /// It is looked at again when more is known, and in the end.
    pub(super) fn let_wait(&mut self, tgid: u32, held: &Held, task: HeldTask, why: &Failure) {
        tracing::debug!(pid = held.pid, "it waits: {why}");
        let mut wait = self.time_to_wait(held);
        if why.is_for_lack() {
            self.reserve.give_up();
            wait = wait.min(LACK);
        }
        let held = *held;
        self.waiting.push(Deferred {
            tgid,
            held,
            task,
            until: Instant::now() + wait,
        });
    }

    /// It is begun with when there are descriptors.
    pub(super) fn begin_later(&mut self, tgid: u32) {
        self.due.add(Instant::now() + LACK, Due::Begin(tgid));
    }

    /// Whether it waits.
    pub(super) fn waits(&self, held: &Held) -> bool {
        self.waiting
            .iter()
            .any(|waiting| waiting.held.seal == held.seal)
    }

    /// One that ended meanwhile. (We trace it: until we let go, its parent does not hear.)
    pub(super) fn forget_waiting(&mut self, seal: u64) {
        self.waiting.retain(|waiting| waiting.held.seal != seal);
        self.digests.borrow_mut().forget(seal);
    }

    /// Looks at those again that have waited long enough.
    pub(super) fn look_at_due(&mut self, now: Instant) {
        let due: Vec<Deferred> = self
            .waiting
            .extract_if(.., |waiting| waiting.until <= now)
            .collect();
        for waiting in due {
            self.serve_waiting(waiting);
        }
    }

    /// Looks at one of them again.
    pub(super) fn look_at_waiting(&mut self, seal: u64) {
        let mut waiting = self.waiting.iter();
        if let Some(at) = waiting.position(|waiting| waiting.held.seal == seal) {
            let waiting = self.waiting.swap_remove(at);
            self.serve_waiting(waiting);
        }
    }

    /// Looks at all of them again. Those of which no more is known wait on, or have waited long enough.
    pub(super) fn look_again(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.serve_waiting(waiting);
        }
    }

    fn serve_waiting(&mut self, waiting: Deferred) {
        let Deferred {
            tgid, held, task, ..
        } = waiting;
        let process = Process::new(held.pid);
        let place = self.whereabouts.lock().of(process, held.cgroup);
        let place = place.unwrap_or_else(|e| Place::unknown(e).into());
        self.serve(tgid, &held, process, place, task);
    }
}
