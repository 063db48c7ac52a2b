//! One secret, read again and again: told as it is each time, for Vault tells nobody of changes.

use std::sync::Arc;

use backon::BackoffBuilder as _;

use super::{Data, Fault, Session};

/// Tells of a secret, for as long as it is polled: its data, `None` when there is no such secret, and what
/// keeps us from knowing.
pub(crate) async fn watch(
    session: Arc<Session>,
    path: String,
    mut tell: impl FnMut(Result<Option<Data>, Fault>),
) {
    let poll_policy = *session.poll_policy();
    let mut retries = poll_policy.retry_policy.retries().build();
    loop {
        let wait = match session.read(&path).await {
            Ok(found) => {
                retries = poll_policy.retry_policy.retries().build();
                let lease = found.as_ref().map(|content| content.lease);
                tell(Ok(found.map(|content| content.data)));
                match lease {
                    Some(lease) if !lease.is_zero() => {
                        (lease / 2).min(poll_policy.refresh).max(poll_policy.apart)
                    }
                    _ => poll_policy.refresh,
                }
            }
            Err(fault) => {
                tell(Err(fault));
                retries
                    .next()
                    .unwrap_or(poll_policy.retry_policy.retry_after_many)
            }
        };
        session.pause(wait).await;
    }
}
