//! How long to wait after failures. The watcher calls every beginning of a list a success, listed or
//! not: here only time makes the wait short again.

use std::time::{Duration, Instant};

use kube::runtime::{utils::Backoff, watcher::ExponentialBackoff};

use crate::patience::Patience;

/// Without a failure for so long, the next one is a first one.
const CALM: Duration = Duration::from_mins(2);

/// Waits, longer with every failure.
pub(super) struct Retry {
    waits: ExponentialBackoff,
    failed: Option<Instant>,
}

impl Retry {
    pub(super) fn new(patience: &Patience) -> Self {
        Self {
            waits: patience.retries().into(),
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
        let patience = Patience::default();
        let mut retry = Retry::new(&patience);
        let mut waited = Duration::ZERO;
        for _ in 0..20 {
            waited = retry.next().unwrap();
            retry.reset();
        }
        assert!(waited >= patience.retry_after_many);
        assert!(waited <= 2 * patience.retry_after_many);
    }
}
