//! What monitors have in common: where their events go, what they are counted in, and whose they are.

use std::sync::Arc;

use crate::{
    observe::{Clock, Detail, Journal, Kind, Metrics, Who},
    process::{Place, Whereabouts},
};

/// See the module.
pub(super) struct Desk {
    pub(super) journal: Journal,
    pub(super) metrics: Metrics,
    pub(super) whereabouts: Whereabouts,
}

/// A process, as a record tells of it.
#[derive(Clone, Copy)]
pub(super) struct Actor<'a> {
    /// Its number in our PID namespace.
    pub(super) pid: u32,
    /// When it started, on the boot clock, in nanoseconds.
    pub(super) started_ns: u64,
    /// Its control group's number.
    pub(super) cgroup: u64,
    /// Its name.
    pub(super) name: &'a str,
}

impl Desk {
    /// Where it lives, as far as that can still be found out.
    pub(super) fn place_of(&mut self, actor: Actor<'_>) -> Option<Arc<Place>> {
        self.whereabouts
            .of_seen(actor.pid, actor.started_ns, actor.cgroup)
    }

    /// Tells of something that it did.
    pub(super) fn tell(
        &mut self,
        time_ns: u64,
        kind: Kind,
        actor: Actor<'_>,
        place: Option<&Place>,
        detail: Detail<'_>,
    ) {
        let who = Who {
            pid: actor.pid,
            process: actor.name,
            container: place.and_then(|place| place.container.as_ref()),
        };
        self.journal.emit(time_ns, kind, who, detail);
    }

    /// Tells of records that were lost.
    pub(super) fn tell_loss(&mut self, count: u64, lost_in: &'static str) {
        self.metrics
            .events_dropped
            .with_label_values(&[lost_in])
            .inc_by(count);
        let detail = Detail::Dropped { count, lost_in };
        let now = Clock::monotonic_ns();
        self.journal.emit(now, Kind::Dropped, Who::agent(), detail);
    }
}
