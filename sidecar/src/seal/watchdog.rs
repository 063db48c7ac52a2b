//! Nothing is held for ever: what is past its time is dealt with, whatever the delivering thread is
//! busy with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sidecar_common::policy::{Held, HeldFlags, RingKey, ScopeId};

use super::{refuse::origin_of, report::joined};
use crate::{
    config::{Config, OnFailure, Policy},
    kernel::Maps,
    observe::{Action, Detail, Journal, Kind, Metrics, Reason, Who},
    util::Clock,
};

/// However well others come along, no program waits for longer.
const LONGEST: Duration = Duration::from_mins(5);

/// Looks at what is held, from time to time.
pub(crate) struct Watchdog {
    pub(crate) maps: Maps,
    pub(crate) scope: ScopeId,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
    pub(crate) on_failure: OnFailure,
    pub(crate) hold_timeout: Duration,
    pub(crate) given_up: GivenUp,
    pub(crate) turns: Turns,
    /// What is in force, where that is known.
    pub(crate) config: Option<Arc<Config>>,
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

/// Whose turn it was, and when: a program that waits in our own queue is not late. Cheap to clone: clones share.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Inner>);

struct Inner {
    /// When each thread that delivers was last done with one, on the monotonic clock: what waits for one that does not come
    /// along is late, however well others do.
    moved_ns: Box<[AtomicU64]>,
    /// Since when they deal with those that they have begun with, by seal.
    begun: Mutex<BTreeMap<u64, u64>>,
}

impl Turns {
    /// Of so many threads.
    pub(crate) fn new(workers: usize) -> Self {
        Self(Arc::new(Inner {
            moved_ns: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            begun: Mutex::default(),
        }))
    }

    /// Of the thread that has a seal.
    fn moved_ns(&self, seal: u64) -> &AtomicU64 {
        let all = &self.0.moved_ns;
        &all[RingKey::worker_of(seal, all.len())]
    }

    fn begun(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is looked at, for the first time or again.
    pub(super) fn begin(&self, seal: u64) {
        self.begun().entry(seal).or_insert_with(Clock::monotonic_ns);
    }

    /// It waits for its turn again: what it had to do itself is done.
    pub(super) fn wait(&self, seal: u64) {
        self.begun().remove(&seal);
    }

    /// It is dealt with.
    pub(super) fn end(&self, seal: u64) {
        self.begun().remove(&seal);
        self.moved_ns(seal)
            .store(Clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// Since when nothing moves that it could wait for.
    pub(super) fn since_ns(&self, held: &Held) -> u64 {
        let begun = self.begun().get(&held.seal).copied();
        let moved = || self.moved_ns(held.seal).load(Ordering::Relaxed);
        begun.unwrap_or_else(moved).max(held.since_ns)
    }

    /// What is not held any more is of no interest.
    fn keep(&self, held: &[(u32, Held)]) {
        let seals: BTreeSet<u64> = held.iter().map(|(_, held)| held.seal).collect();
        self.begun().retain(|seal, _| seals.contains(seal));
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
        self.give_up(grace, Reason::Deadline, |since| {
            format!(
                "it was held for {since:.1?}, longer than policy.holdTimeout ({limit:?}) allows"
            )
        });
    }

    /// Gives up the programs that a dead agent left held under another version's kernel side.
    pub(crate) fn succeed_agent_of(&mut self, other: Maps) {
        let ours = std::mem::replace(&mut self.maps, other);
        self.give_up(Duration::ZERO, Reason::NoAgent, |_| {
            "its agent, of another version, was killed while it was held".into()
        });
        self.maps = ours;
    }

    /// Gives up programs that a dead agent left held for longer than `holdTimeout`.
    pub(crate) fn succeed_agent(&mut self) {
        self.give_up(self.hold_timeout, Reason::NoAgent, |_| {
            "its agent was killed while it was held".into()
        });
    }

    fn give_up(&mut self, grace: Duration, label: Reason, reason: impl Fn(Duration) -> String) {
        let now = Clock::monotonic_ns();
        let all = self.maps.all_held(self.scope);
        self.turns.keep(&all);
        self.metrics
            .held
            .set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        for (tgid, held) in all {
            let since = Duration::from_nanos(now.saturating_sub(held.since_ns));
            // (a queue that moves has an end)
            let still = Duration::from_nanos(now.saturating_sub(self.turns.since_ns(&held)));
            let is_late = still >= grace || since >= grace.max(LONGEST);
            if !is_late || !self.given_up.add(held.seal) {
                continue;
            }
            let origin = origin_of(&held);
            let (action, is_done) = match self.on_failure {
                OnFailure::Deny => (Action::Killed, kill_held(&self.maps, tgid, &held)),
                OnFailure::Allow if held.flags.contains(HeldFlags::PRE_EXEC) => {
                    (Action::Started, self.maps.waive(tgid, &held).is_ok())
                }
                OnFailure::Allow => (Action::Started, let_go_held(&mut self.maps, tgid, &held)),
            };
            if !is_done {
                // It is gone, or is another's by now; else there were no descriptors, and it is looked at again.
                self.given_up.take(held.seal);
                continue;
            }
            self.metrics.count_refused(label);
            let reason = reason(since);
            tracing::warn!(pid = held.pid, "refused: {reason}");
            let name = super::text(&held.name);
            let config = self.config.iter();
            let bindings = config.flat_map(|config| config.named(name.as_bytes()));
            let detail = Detail::Refused {
                binding: &joined(bindings),
                origin: (&origin).into(),
                reason: &reason,
                action,
            };
            let who = Who {
                pid: held.pid,
                process: &name,
                container: None,
                pod_uid: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn held(seal: u64, since_ns: u64) -> Held {
        Held {
            seal,
            since_ns,
            ..bytemuck::Zeroable::zeroed()
        }
    }

    #[test]
    fn a_queue_that_moves_is_nobodys_delay() {
        let turns = Turns::new(1);
        let (first, second) = (held(1, 100), held(2, 200));
        // nothing moves: since it is held
        assert_eq!(turns.since_ns(&first), 100);
        turns.begin(1);
        let begun = turns.since_ns(&first);
        assert!(begun > 100);
        turns.begin(1);
        assert_eq!(turns.since_ns(&first), begun, "it began once");
        assert_eq!(turns.since_ns(&second), 200, "nothing has moved yet");
        turns.end(1);
        assert!(turns.since_ns(&second) >= begun);
        turns.begin(3);
        turns.keep(&[(7, second)]);
        assert!(turns.begun().is_empty());
    }

    #[test]
    fn a_queue_that_moves_is_no_excuse_for_another() {
        let turns = Turns::new(2);
        let (ours, others) = (held(2, 100), held(3, 100));
        turns.begin(others.seal);
        turns.end(others.seal);
        assert_eq!(turns.since_ns(&ours), 100);
        assert!(turns.since_ns(&others) > 100);
    }
}
