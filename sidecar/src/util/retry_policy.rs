//! How long a server is waited for, and how soon it is asked again after a failure.

use std::time::Duration;

use backon::ExponentialBuilder;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct RetryPolicy {
    /// An answer must be there by then.
    pub(crate) answer_within: Duration,
    /// Before asking again after a failure, at first.
    pub(crate) retry_after: Duration,
    /// After many failures. It doubles in between, and up to as much again is added by chance.
    pub(crate) retry_after_many: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            answer_within: Duration::from_secs(10),
            retry_after: Duration::from_millis(800),
            retry_after_many: Duration::from_secs(15),
        }
    }
}

impl RetryPolicy {
    /// Waits without end, longer with every failure.
    pub(crate) fn retries(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(self.retry_after)
            .with_max_delay(self.retry_after_many)
            .with_jitter()
            .without_max_times()
    }
}
