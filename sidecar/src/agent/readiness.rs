//! Whether `/ready` says yes: when all that the policy asks for is in force, attached, and seen to work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What the answer is made of.
#[derive(Default)]
pub(super) struct Readiness {
    published: Arc<AtomicBool>,
    is_in_force: bool,
    is_guarded: bool,
}

impl Readiness {
    /// Where the answer is read.
    pub(super) fn published(&self) -> Arc<AtomicBool> {
        self.published.clone()
    }

    /// Whether the configuration is in force, with all that it asks for attached.
    pub(super) fn set_in_force(&mut self, is_in_force: bool) {
        self.is_in_force = is_in_force;
        self.publish();
    }

    /// Whether the guard works, or none is asked for.
    pub(super) fn set_guarded(&mut self, is_guarded: bool) {
        self.is_guarded = is_guarded;
        self.publish();
    }

    /// The policy asks for no guard, and nothing else is missing.
    pub(super) fn set_unguarded_by_policy(&mut self) {
        (self.is_in_force, self.is_guarded) = (true, true);
        self.publish();
    }

    fn publish(&self) {
        let is_ready = self.is_in_force && self.is_guarded;
        self.published.store(is_ready, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_either_missing_is_not_ready() {
        let mut readiness = Readiness::default();
        let published = readiness.published();
        let mut is_ready = |in_force, guarded| {
            readiness.set_in_force(in_force);
            readiness.set_guarded(guarded);
            published.load(Ordering::Relaxed)
        };
        assert!(!is_ready(false, false));
        assert!(!is_ready(true, false));
        assert!(!is_ready(false, true));
        assert!(is_ready(true, true));
        assert!(!is_ready(true, false));
    }
}
