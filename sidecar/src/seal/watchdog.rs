//! Nothing is held for ever: what is past its time is dealt with, whatever the delivering thread is
//! busy with.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
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
            let action = match self.on_failure {
                OnFailure::Deny => {
                    kill_held(&self.maps, tgid, &held);
                    Action::Killed
                }
                OnFailure::Allow if held.flags & HELD_COMING != 0 => {
                    let _ = self.maps.waive(tgid, &held);
                    Action::Started
                }
                OnFailure::Allow => {
                    self.maps.unseal(tgid, &held);
                    signal_held(&self.maps, tgid, &held, Signal::CONT);
                    let _ = self.maps.forget_held(tgid);
                    Action::Started
                }
            };
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

/// Kills a held program.
pub(super) fn kill_held(maps: &Maps, tgid: u32, held: &Held) {
    signal_held(maps, tgid, held, Signal::KILL);
}

/// Signals a held program, and nobody who has its number by now: while the entry is there and
/// of this exec, the number is its own, and so is the descriptor opened before we looked.
fn signal_held(maps: &Maps, tgid: u32, held: &Held, signal: Signal) {
    let Some(pid) = Pid::from_raw(held.pid.cast_signed()) else {
        return;
    };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if matches!(maps.held(tgid), Ok(Some(still)) if still.seal == held.seal) {
        let _ = pidfd_send_signal(&process, signal);
    }
}
