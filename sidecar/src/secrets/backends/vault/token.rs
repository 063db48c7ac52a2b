//! A token of ours, and how long it is good for.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::answer::Grant;

/// See the module. Has no `Debug`.
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) since: Instant,
    lease: Option<Lease>,
}

struct Lease {
    ends: Instant,
    /// When something is to be done about it; nothing, if nothing can be.
    due: Option<Instant>,
    /// How long it was at first. One that is renewed to much less nears its longest life.
    first: Duration,
    is_renewable: bool,
}

impl Lease {
    fn new(grant: &Grant, apart: Duration) -> Option<Self> {
        let now = Instant::now();
        // Half of it: so there is time for trying again.
        let due = now + (grant.lease / 2).max(apart);
        (!grant.lease.is_zero()).then_some(Self {
            ends: now + grant.lease,
            due: Some(due),
            first: grant.lease,
            is_renewable: grant.is_renewable,
        })
    }
}

impl Token {
    /// One that was granted just now. `apart`: the least until something is due.
    pub(super) fn new(header: HeaderValue, grant: Option<&Grant>, apart: Duration) -> Self {
        Self {
            header,
            since: Instant::now(),
            lease: grant.and_then(|grant| Lease::new(grant, apart)),
        }
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_renewable)
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lease.as_ref().and_then(|lease| lease.due)
    }

    pub(super) fn has_ended(&self) -> bool {
        let lease = self.lease.as_ref();
        lease.is_some_and(|lease| lease.ends <= Instant::now())
    }

    /// It was renewed. Whether that will do, or it nears its longest life.
    pub(super) fn renewed(&mut self, grant: &Grant, apart: Duration) -> bool {
        let first = self.lease.as_ref().map(|lease| lease.first);
        self.lease = Lease::new(grant, apart);
        match (&mut self.lease, first) {
            (Some(lease), Some(first)) => {
                let is_enough = lease.first > first / 2;
                lease.first = first;
                is_enough
            }
            // (less than a second is told as none)
            (None, Some(_)) => false,
            (_, None) => true,
        }
    }

    /// To be looked at again then, or, with nothing, never.
    pub(super) fn put_off(&mut self, until: Option<Instant>) {
        if let Some(lease) = &mut self.lease {
            lease.due = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: Duration = Duration::from_secs(1);

    fn grant(lease: u64) -> Grant {
        Grant {
            token: None,
            lease: Duration::from_secs(lease),
            is_renewable: true,
        }
    }

    fn token(lease: u64) -> Token {
        Token::new(HeaderValue::from_static("t"), Some(&grant(lease)), APART)
    }

    #[test]
    fn something_is_due_at_half_of_the_lease() {
        let in_seconds = |lease| {
            token(lease)
                .due()
                .map(|due| (due - Instant::now()).as_secs_f64().round())
        };
        assert_eq!(in_seconds(3600), Some(1800.0));
        assert_eq!(in_seconds(1), Some(1.0));
        assert_eq!(in_seconds(0), None);
    }

    #[test]
    fn a_token_that_nears_its_longest_life_is_told() {
        let mut token = token(3600);
        assert!(token.renewed(&grant(3600), APART));
        assert!(token.renewed(&grant(1801), APART));
        assert!(!token.renewed(&grant(1800), APART));
        assert!(!token.renewed(&grant(0), APART));
    }
}
