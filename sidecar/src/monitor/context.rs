//! What monitors have in common: where their events go, what they are counted in, and whose they are.

use std::{borrow::Cow, sync::Arc};

use sidecar_common::monitor::{self, Owner};

use crate::{
    kernel,
    observe::{Detail, Journal, Kind, Metrics, Who},
    process::{Place, Whereabouts},
};

/// See the module.
pub(super) struct MonitorContext {
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

impl<'a> Actor<'a> {
    /// The one that a record says, by the name that [`name_of`] gives.
    pub(super) fn of(owner: &Owner, name: &'a str) -> Self {
        Self {
            pid: owner.pid,
            started_ns: owner.started_ns,
            cgroup: owner.cgroup,
            name,
        }
    }
}

/// What a record calls a process.
pub(super) fn name_of(owner: &Owner) -> Cow<'_, str> {
    let comm: &[u8] = bytemuck::cast_slice(&owner.comm);
    let comm = comm.split(|byte| *byte == 0).next();
    String::from_utf8_lossy(comm.unwrap_or_default())
}

impl MonitorContext {
    /// The kernel told where a control group is.
    pub(super) fn learn(&mut self, place: &monitor::Place) {
        if let Some(path) = kernel::path_of(place) {
            self.whereabouts.learn(place.cgroup, path);
        }
    }

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
            pod_uid: None,
        };
        self.journal.emit(time_ns, kind, who, detail);
    }

    /// Tells of records that a control group had too much of.
    pub(super) fn tell_excess(&mut self, cgroup: u64, count: u64) {
        let place = self.whereabouts.known(cgroup);
        let container = place.as_ref().and_then(|place| place.container.as_ref());
        self.journal.tell_loss(count, "rate", container);
    }
}
