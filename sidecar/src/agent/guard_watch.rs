//! Whether the guard works, asked again and again for as long as an agent runs, and what is said when it does not.

use std::time::{Duration, Instant};

use crate::{
    kernel::{Cause, SelfTest},
    observe::{Journal, Lifecycle, Metrics},
};

/// How often the self-test runs.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// The self-test, from time to time.
pub(super) struct GuardWatch {
    test: SelfTest,
    metrics: Metrics,
    journal: Journal,
    last: Instant,
    /// Why it does not work, if it does not.
    lost: Option<Cause>,
    /// Whether the policy asks for it.
    is_asked_for: bool,
}

impl GuardWatch {
    /// Begins with a first test, which must pass; `helper` is a process of this agent's.
    pub(super) fn begin(
        helper: u32,
        metrics: Metrics,
        journal: Journal,
    ) -> Result<Self, crate::kernel::Error> {
        let test = SelfTest::open()?;
        test.run(helper).map_err(crate::kernel::Error::Silent)?;
        let watch = Self {
            test,
            metrics,
            journal,
            last: Instant::now(),
            lost: None,
            is_asked_for: true,
        };
        watch.publish();
        Ok(watch)
    }

    /// Whether the policy in force asks for a guard (`policy.mode` is not `disabled`).
    pub(super) fn set_asked_for(&mut self, is_asked_for: bool) {
        self.is_asked_for = is_asked_for;
        self.publish();
    }

    fn publish(&self) {
        let is_up = self.lost.is_none() && self.is_asked_for;
        self.metrics.guard_is_up.set(is_up.into());
    }

    /// Runs the test if it is time; says when the answer is another than before. `mode` is the one in force.
    pub(super) fn look(&mut self, helper: u32, mode: &str) {
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        let lost = self.test.run(helper).err();
        if lost == self.lost {
            return;
        }
        if let Some(cause) = &lost {
            let reason = cause.to_string();
            if matches!(cause, Cause::Unchecked(_)) {
                tracing::error!(
                    "whether the guard works is not known: {reason}. It counts as lost until it is checked again"
                );
            } else {
                tracing::error!(
                    "the guard does not work: {reason}. Watched programs get no secrets until it does; those that run are not guarded"
                );
            }
            self.journal
                .emit_lifecycle(Lifecycle::GuardLost, mode, Some(&reason));
        } else {
            tracing::warn!("the guard works again");
            self.journal
                .emit_lifecycle(Lifecycle::GuardRestored, mode, None);
        }
        self.journal.flush();
        self.lost = lost;
        self.publish();
    }

    /// Whether it worked when it was last asked.
    pub(super) fn is_up(&self) -> bool {
        self.lost.is_none()
    }
}

impl Drop for GuardWatch {
    fn drop(&mut self) {
        self.metrics.guard_is_up.set(0);
    }
}
