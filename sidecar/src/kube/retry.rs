//! How long to wait after failures. The watcher calls every beginning of a list a success, listed or
//! not: here only time makes the wait short again.

use std::time::{Duration, Instant};

use kube::runtime::{utils::Backoff, watcher::ExponentialBackoff};

use crate::util::RetryPolicy;

/// Without a failure for so long, the next one is a first one.
const CALM: Duration = Duration::from_mins(2);

/// Waits, longer with every failure.
pub(super) struct Retry {
    waits: ExponentialBackoff,
    failed: Option<Instant>,
}

impl Retry {
    pub(super) fn new(retry_policy: &RetryPolicy) -> Self {
        Self {
            waits: retry_policy.retries().into(),
            failed: None,
        }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.failed.is_some_and(|failed| failed.elapsed() > CALM) {
            self.waits.reset();
        }
        self.failed = Some(Instant::now());
        self.waits.next()
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_only_begins_does_not_shorten_the_wait() {
        let retry_policy = RetryPolicy::default();
        let mut retry = Retry::new(&retry_policy);
        let mut waited = Duration::ZERO;
        for _ in 0..20 {
            waited = retry.next().unwrap();
            retry.reset();
        }
        assert!(waited >= retry_policy.retry_after_many);
        assert!(waited <= 2 * retry_policy.retry_after_many);
    }
}
