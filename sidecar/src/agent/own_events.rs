//! What an agent tells of its own beginning and end.

use crate::{
    config::Mode,
    observe::{Journal, Lifecycle},
};

/// See the module.
pub(super) struct OwnEvents {
    journal: Journal,
    has_started: bool,
}

impl OwnEvents {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            has_started: false,
        }
    }

    /// It watches, or waits for a configuration that asks it to; told once.
    pub(super) fn started(&mut self, mode: Mode) {
        if !std::mem::replace(&mut self.has_started, true) {
            self.tell(Lifecycle::Started, mode);
        }
    }

    /// It waits for a configuration that asks it to watch.
    pub(super) fn waits_disabled(&mut self) {
        tracing::warn!(
            "policy.mode is disabled: nothing is attached, programs start without their secrets"
        );
        self.started(Mode::Disabled);
    }

    /// It was told to end before it watched. (One that watches says so when it ends.)
    pub(super) fn stopping(&mut self, mode: Mode) {
        self.tell(Lifecycle::Stopping, mode);
    }

    fn tell(&mut self, action: Lifecycle, mode: Mode) {
        self.journal.emit_lifecycle(action, mode.name(), None);
        self.journal.flush();
    }
}
