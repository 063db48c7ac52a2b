//! A watch that goes on: listed, watched, and begun anew where the watcher alone would be stuck.

use std::{fmt::Debug, pin::pin};

use futures_util::{Stream, StreamExt as _};
use kube::runtime::{
    WatchStreamExt as _,
    watcher::{self, Event},
};

use super::{Fault, PollPolicy, retry::Retry};

/// A watcher's configuration for what the fields say, or for all there is, by our policy.
pub(super) fn config(fields: Option<&str>, poll_policy: &PollPolicy) -> watcher::Config {
    let seconds = u32::try_from(poll_policy.watch_for.as_secs()).unwrap_or(u32::MAX);
    let config = watcher::Config::default().timeout(seconds.max(1));
    match fields {
        Some(fields) => config.fields(fields),
        None => config,
    }
}

/// Tells every event, and what keeps us from hearing more, for as long as it is polled. `begin` gives a new
/// watcher.
pub(super) async fn follow<K, S>(
    poll_policy: PollPolicy,
    begin: impl Fn() -> S,
    mut tell: impl FnMut(Result<Event<K>, Fault>),
) where
    K: Clone + Debug + Send + 'static,
    S: Stream<Item = watcher::Result<Event<K>>> + Send,
{
    loop {
        let mut events = pin!(begin().backoff(Retry::new(&poll_policy.retry_policy)));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => tell(Ok(event)),
                Err(error) => {
                    let fault = Fault::of(&error);
                    // A watch that is refused with 410 is not listed anew by the watcher.
                    let is_stuck = matches!(error, watcher::Error::WatchStartFailed(_));
                    let begin_anew = is_stuck && fault == Fault::Expired;
                    tell(Err(fault));
                    if begin_anew {
                        break;
                    }
                }
            }
        }
    }
}
