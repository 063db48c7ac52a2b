//! A secret that is kept elsewhere, as it was heard last: served from memory, so that no program
//! waits for a network, for as long as somebody holds it.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{Value, changes::Changes};

/// What a remote secret does not give. Names keys, never what they hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemoteError {
    /// Its keeper has no such secret.
    #[error("there is no {what}. {remedy}")]
    Missing {
        /// The secret.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It has no such key.
    #[error("the {what} has no key {key}; its keys are: {keys}", keys = list(there))]
    NoKey {
        /// The secret.
        what: String,
        /// The key asked for.
        key: String,
        /// Those there are.
        there: Vec<String>,
    },
    /// What the key holds is no value.
    #[error("the {what} has the key {key}, and what it holds is not text, a number or a boolean")]
    NoValue {
        /// The secret.
        what: String,
        /// The key.
        key: String,
    },
    /// Its keeper has not said.
    #[error("the {what} is not known: {why}")]
    Unknown {
        /// The secret.
        what: String,
        /// Why not.
        why: String,
    },
}

impl RemoteError {
    /// Whether the secret, or the key, is known not to be there.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NoKey { .. })
    }
}

/// Keys in a message. Vault lets one be anything, a line of a log too.
fn list(keys: &[String]) -> String {
    let is_plain = |key: &&str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        key.len() <= 253 && key.bytes().all(legal)
    };
    let mut shown: Vec<&str> = keys.iter().map(String::as_str).filter(is_plain).collect();
    if shown.len() < keys.len() {
        shown.push("some that are not plain words");
    }
    if shown.is_empty() {
        shown.push("none");
    }
    shown.join(", ")
}

/// A remote secret and what was heard of it.
pub(crate) struct CachedSecret {
    /// What messages call it: `Secret db in the namespace payments`.
    what: String,
    /// What to do where there is none.
    remedy: &'static str,
    state: Mutex<State>,
    /// Whether waiting longer is of use.
    settled: watch::Sender<bool>,
    changes: Changes,
}

struct State {
    data: CacheState,
    /// When its keeper last answered for it.
    at: Instant,
    /// Why its keeper cannot be asked at present.
    trouble: Option<String>,
}

/// What is in a remote secret, by its keys; `None`: something that is no value.
pub(super) type Keys = BTreeMap<String, Option<Value>>;

#[derive(PartialEq)]
enum CacheState {
    Nothing,
    Missing,
    Data(Keys),
}

impl CachedSecret {
    pub(super) fn new(what: String, remedy: &'static str, changes: Changes) -> Arc<Self> {
        Arc::new(Self {
            what,
            remedy,
            state: Mutex::new(State {
                data: CacheState::Nothing,
                at: Instant::now(),
                trouble: None,
            }),
            settled: watch::Sender::new(false),
            changes,
        })
    }

    /// Its keeper has answered for it.
    pub(super) fn mark_fresh(&self) {
        let mut state = self.state();
        state.at = Instant::now();
        if state.trouble.take().is_some() {
            tracing::info!("the {} can be read again", self.what);
        }
    }

    /// Sets its keys and values as its keeper has just answered; `None`: the keeper has no such secret.
    pub(super) fn update(&self, data: Option<Keys>) {
        let data = data.map_or(CacheState::Missing, CacheState::Data);
        self.mark_fresh();
        let mut state = self.state();
        let before = std::mem::replace(&mut state.data, data);
        let has_changed = before != state.data;
        let is_missing = state.data == CacheState::Missing;
        drop(state);
        self.settled.send_replace(true);
        if has_changed {
            match (before, is_missing) {
                (_, true) => tracing::warn!("there is no {}", self.what),
                (CacheState::Nothing, _) => tracing::info!("the {} was read", self.what),
                _ => tracing::info!("the {} has changed", self.what),
            }
            self.changes.tell();
        }
    }

    /// Its keeper could not be asked, for that reason. Final: waiting does not help before somebody has corrected something.
    pub(super) fn set_trouble(&self, why: String, is_final: bool) {
        let mut state = self.state();
        if state.trouble.as_ref() != Some(&why) {
            tracing::warn!("the {}: {why}", self.what);
        }
        state.trouble = Some(why);
        drop(state);
        if is_final {
            self.settled.send_replace(true);
        }
    }

    /// A key's value, as it was heard last.
    pub(crate) fn get(&self, key: &str) -> Result<Value, RemoteError> {
        let what = || self.what.clone();
        let state = self.state();
        match &state.data {
            CacheState::Data(data) => match data.get(key) {
                Some(Some(value)) => Ok(value.clone()),
                Some(None) => Err(RemoteError::NoValue {
                    what: what(),
                    key: key.to_owned(),
                }),
                None => Err(RemoteError::NoKey {
                    what: what(),
                    key: key.to_owned(),
                    there: data.keys().cloned().collect(),
                }),
            },
            CacheState::Missing => Err(RemoteError::Missing {
                what: what(),
                remedy: self.remedy,
            }),
            CacheState::Nothing => Err(RemoteError::Unknown {
                what: what(),
                why: state
                    .trouble
                    .clone()
                    .unwrap_or_else(|| "no answer yet".into()),
            }),
        }
    }

    /// Since when nothing was heard of it.
    pub(super) fn age(&self) -> Duration {
        self.state().at.elapsed()
    }

    /// A line about what is amiss, if something is.
    pub(super) fn note(&self) -> Option<String> {
        let state = self.state();
        let age = state.at.elapsed().as_secs();
        let why = state.trouble.as_ref()?;
        Some(match state.data {
            CacheState::Nothing => format!("the {} is not known: {why}", self.what),
            _ => format!("the {} is served as it was {age}s ago: {why}", self.what),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A remote secret and the task that listens for it, which ends with this.
pub(crate) struct Held {
    pub(super) remote: Arc<CachedSecret>,
    listener: AbortHandle,
}

impl Held {
    /// Listens from here on. Needs a tokio runtime.
    pub(super) fn new(
        remote: Arc<CachedSecret>,
        listener: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Self> {
        let listener = tokio::spawn(listener).abort_handle();
        Arc::new(Self { remote, listener })
    }

    /// Waits until it is known what it is, or that it will not be known soon.
    pub(super) async fn settle(&self, longest: Duration) {
        let mut settled = self.remote.settled.subscribe();
        // Both ends are fine: the caller goes on either way.
        let _ = timeout(longest, settled.wait_for(|settled| *settled)).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
