//! Vault: who we are to it, and secrets of its key-value engine (version 2), read again and again.

mod answer;
mod fault;
mod line;
mod proof;
mod secret;
mod session;
mod token;
mod trust;

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

pub(crate) use answer::Data;
pub(crate) use fault::Fault;
pub(crate) use secret::watch;
pub(crate) use session::Session;
pub(crate) use trust::TrustError;

/// How often, and for how long, Vault is asked.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// An answer must be there as a whole by then.
    pub(crate) answer_within: Duration,
    /// From one reading of a secret to the next, unless its lease is shorter than twice that.
    pub(crate) refresh: Duration,
    /// The least between two readings, whatever a lease says.
    pub(crate) apart: Duration,
    /// From a login to the next that a refusal is a reason for: where a policy is missing, tokens would pile up.
    pub(crate) login_apart: Duration,
    /// Before asking again after a failure, at first.
    pub(crate) retry_after: Duration,
    /// After many failures. It doubles in between, and up to as much again is added by chance.
    pub(crate) retry_after_many: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(10),
            refresh: Duration::from_mins(1),
            apart: Duration::from_secs(1),
            login_apart: Duration::from_mins(1),
            retry_after: Duration::from_millis(800),
            retry_after_many: Duration::from_secs(15),
        }
    }
}

impl Pace {
    /// Waits, longer with every failure.
    fn retries(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.retry_after)
            .with_max_delay(self.retry_after_many)
            .with_jitter()
            .without_max_times()
            .build()
    }
}
