//! A watched program that the kernel was asked to execute, and did not: a script without `#!`, for one, which a shell then
//! interprets itself. Whoever asked goes on, as it would without us; that there are no secrets is not to go unheard.

use std::io;

use sidecar_common::policy::Held;

use super::{
    Work,
    refuse::origin_of,
    report::joined,
    text,
    verify::{Evidence, describes},
    where_from,
};
use crate::{
    config::Binding,
    observe::{Action, Detail, Kind, Reason},
    process::{Place, Process},
    util::Clock,
};

/// (Which of them it is the kernel has told nobody but who asked for it.)
const WHY: &str = "the kernel did not execute it: it is a script without #!, or the interpreter that its first line or its program \
    header names is not there. Where a shell runs it all the same, it has no secrets. Begin it with a line such as #!/bin/sh";

impl Work {
    /// Says so of one that we were attached to, unless no binding is about it.
    pub(super) fn report_not_executed(&mut self, held: &Held) {
        self.turns.end(held.seal);
        if self.given_up.take(held.seal) {
            return; // the watchdog was there first, and has said so
        }
        let config = self.config.clone();
        let process = Process::new(held.pid);
        let place = self.whereabouts.lock().of_seen(held.pid, held.start_ns, 0);
        let place = place.unwrap_or_else(|| Place::unknown(io::ErrorKind::NotFound.into()).into());
        // (of one that has ended nobody knows whose it was)
        let is_there = process.started_at(held.start_ns).unwrap_or(false) && !process.has_ended();
        let user = is_there.then(|| process.user().ok()).flatten();
        let is_meant = |binding: &&Binding| {
            let seen = Held {
                uid: user.or(binding.selector.uid).unwrap_or_default(),
                ..*held
            };
            let evidence = Evidence {
                held: &seen,
                process,
                place: &place,
                pods: self.whereabouts.pods(),
                may_wait: false,
                stack: None,
                is_executed: &|_| Ok(false),
                ask: &where_from,
                may_count: false,
                digests: &self.digests,
            };
            describes(&binding.selector, &evidence).unwrap_or(true)
        };
        let name = text(&held.name);
        let meant: Vec<&Binding> = config.named(name.as_bytes()).filter(is_meant).collect();
        if meant.is_empty() {
            return;
        }
        self.metrics.count_refused(Reason::NotExecuted);
        tracing::warn!(pid = held.pid, process = %name, "no secrets: {WHY}");
        let origin = origin_of(held);
        let detail = Detail::Refused {
            binding: &joined(meant),
            origin: (&origin).into(),
            reason: WHY,
            action: Action::GoesOn,
        };
        self.emit(Clock::monotonic_ns(), Kind::Refused, held, &place, detail);
    }
}
