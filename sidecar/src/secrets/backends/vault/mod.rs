//! Vault: who we are to it, and secrets of its key-value engine (version 2), read again and again.

mod answer;
mod auth;
mod fault;
mod secret;
mod session;
mod token;
mod transport;
mod trust;

use std::time::Duration;

pub(crate) use answer::Data;
pub(crate) use fault::Fault;
pub(crate) use secret::watch;
pub(crate) use session::Session;
pub(crate) use trust::TrustError;

use crate::util::RetryPolicy;

/// How often, and for how long, Vault is asked.
#[derive(Clone, Copy)]
pub(crate) struct PollPolicy {
    /// With an answer as a whole.
    pub(crate) retry_policy: RetryPolicy,
    /// From one reading of a secret to the next, unless its lease is shorter than twice that.
    pub(crate) refresh: Duration,
    /// The least between two readings, whatever a lease says.
    pub(crate) apart: Duration,
    /// From a login to the next that a refusal is a reason for: where a policy is missing, tokens would pile up.
    pub(crate) login_apart: Duration,
}

impl Default for PollPolicy {
    fn default() -> Self {
        Self {
            retry_policy: RetryPolicy::default(),
            refresh: Duration::from_mins(1),
            apart: Duration::from_secs(1),
            login_apart: Duration::from_mins(1),
        }
    }
}
