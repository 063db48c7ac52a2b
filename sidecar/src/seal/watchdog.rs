//! Nothing is held for ever: what is past its time is dealt with, whatever the delivering thread is
//! busy with.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sidecar_common::policy::{HELD_COMING, Held, ScopeId};

use crate::{
    config::{OnFailure, Policy},
    kernel::Maps,
    observe::{Action, Clock, Detail, Journal, Kind, Metrics, Who},
};

/// Looks at what is held, from time to time.
pub(crate) struct Watchdog {
    pub(crate) maps: Maps,
    pub(crate) scope: ScopeId,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
    pub(crate) on_failure: OnFailure,
    pub(crate) hold_timeout: Duration,
    pub(crate) given_up: GivenUp,
}

/// The seals of programs the watchdog has dealt with, so that each is reported once. Cheap to clone:
/// clones share.
#[derive(Clone, Default)]
pub(crate) struct GivenUp(Arc<Mutex<BTreeSet<u64>>>);

impl GivenUp {
    /// False when it was there already.
    fn add(&self, seal: u64) -> bool {
        self.0.lock().is_ok_and(|mut seals| seals.insert(seal))
    }

    /// Whether it was there; it is not any more.
    pub(super) fn take(&self, seal: u64) -> bool {
        self.0.lock().is_ok_and(|mut seals| seals.remove(&seal))
    }
}

impl Watchdog {
    /// How often to look: often enough that no hold lasts a quarter longer than it may.
    pub(crate) fn interval(policy: &Policy) -> Duration {
        policy.hold_timeout / 4
    }

    /// Deals with what is past its time; with `grace` zero, with everything.
    pub(crate) fn look(&mut self, grace: Duration) {
        let limit = self.hold_timeout;
        self.give_up(grace, |since| {
            format!(
                "it was held for {since:.1?}, longer than policy.holdTimeout ({limit:?}) allows"
            )
        });
    }

    /// Deals with what an agent that died left held under another version's kernel side.
    pub(crate) fn succeed_agent_of(&mut self, other: Maps) {
        let ours = std::mem::replace(&mut self.maps, other);
        self.give_up(Duration::ZERO, |_| {
            "its agent, of another version, was killed while it was held".into()
        });
        self.maps = ours;
    }

    /// Deals with what an agent that died left held, and has been for our own deadline.
    pub(crate) fn succeed_agent(&mut self) {
        self.give_up(self.hold_timeout, |_| {
            "its agent was killed while it was held".into()
        });
    }

    fn give_up(&mut self, grace: Duration, reason: impl Fn(Duration) -> String) {
        let now = Clock::monotonic_ns();
        for (tgid, held) in self.maps.all_held(self.scope) {
            let since = Duration::from_nanos(now.saturating_sub(held.since_ns));
            if since < grace || !self.given_up.add(held.seal) {
                continue;
            }
            let (action, is_done) = match self.on_failure {
                OnFailure::Deny => (Action::Killed, kill_held(&self.maps, tgid, &held)),
                OnFailure::Allow if held.flags & HELD_COMING != 0 => {
                    (Action::Started, self.maps.waive(tgid, &held).is_ok())
                }
                OnFailure::Allow => (Action::Started, let_go_held(&mut self.maps, tgid, &held)),
            };
            if !is_done {
                // It is gone, or is another's by now; else there were no descriptors, and it is looked at again.
                self.given_up.take(held.seal);
                continue;
            }
            self.metrics.refused.inc();
            let reason = reason(since);
            tracing::warn!(pid = held.pid, "refused: {reason}");
            let detail = Detail::Refused {
                reason: &reason,
                action,
            };
            let who = Who {
                pid: held.pid,
                process: &super::text(&held.name),
                container: None,
            };
            self.journal.emit(now, Kind::Refused, who, detail);
        }
        self.journal.flush();
    }
}

/// Kills a held program, and nobody who has its number by now: while the entry is there and of this exec, the number is
/// its own, and so is the descriptor opened before we looked. False if it was not killed.
pub(super) fn kill_held(maps: &Maps, tgid: u32, held: &Held) -> bool {
    open(held).is_some_and(|process| {
        matches!(maps.held(tgid), Ok(Some(still)) if still.seal == held.seal)
            && pidfd_send_signal(&process, Signal::KILL).is_ok()
    })
}

/// Lets a held program go without its secrets. Off the books first: then whoever is about to give it some fails.
fn let_go_held(maps: &mut Maps, tgid: u32, held: &Held) -> bool {
    open(held).is_some_and(|process| {
        let was_held = maps.forget_if(tgid, held);
        if was_held {
            maps.unseal(tgid, held);
            let _ = pidfd_send_signal(&process, Signal::CONT);
        }
        was_held
    })
}

fn open(held: &Held) -> Option<OwnedFd> {
    let pid = Pid::from_raw(held.pid.cast_signed())?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}
