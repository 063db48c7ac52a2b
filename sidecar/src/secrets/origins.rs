//! What outlives a configuration: the variables that were taken, and the secrets of elsewhere that are
//! held. A store opened anew for another configuration finds them here as they are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{
    Value,
    changes::Changes,
    environ,
    remote::{Held, Remote},
};
use crate::kube::{self, Cluster, ClusterError, Data, Pace, SecretId};

/// See the module.
#[derive(Default)]
pub(crate) struct Origins {
    environ: HashMap<String, Value>,
    kubernetes: Option<(Cluster, ::kube::Client)>,
    pace: Pace,
    held: Known,
    changes: Changes,
}

/// A remote secret's name in metrics: its kind of keeper, and which.
type Name = (&'static str, String);

/// Which remote secrets are held. Clones know the same.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Mutex<BTreeMap<Name, Weak<Held>>>>);

impl Origins {
    /// Of a cluster, with a pace of its own.
    #[cfg(test)]
    pub(super) fn of(cluster: Cluster, pace: Pace) -> Self {
        let client = cluster.client().expect("a client");
        Self {
            kubernetes: Some((cluster, client)),
            pace,
            ..Self::default()
        }
    }

    /// The remote secrets that are held.
    pub(crate) fn known(&self) -> Known {
        self.held.clone()
    }

    /// Where changes are told.
    pub(crate) fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// Variables of the agent's own, those taken before and those taken now.
    pub(super) fn environ(&mut self, names: &[&str]) -> io::Result<HashMap<String, Value>> {
        let new: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !self.environ.contains_key(*name))
            .collect();
        self.environ.extend(environ::take(&new)?);
        Ok(self.environ.clone())
    }

    /// The cluster, if there are credentials for one.
    pub(super) async fn cluster(&mut self) -> Result<Option<&Cluster>, ClusterError> {
        if self.kubernetes.is_none()
            && let Some(cluster) = Cluster::find().await?
        {
            let client = cluster.client()?;
            self.kubernetes = Some((cluster, client));
        }
        Ok(self.kubernetes.as_ref().map(|(cluster, _)| cluster))
    }

    /// A Secret of the cluster, watched from here on if it is not yet.
    pub(super) fn secret(&self, id: &SecretId) -> Option<Arc<Held>> {
        let (_, client) = self.kubernetes.as_ref()?;
        let SecretId { namespace, name } = id;
        Some(
            self.hold(("kubernetes", format!("{namespace}/{name}")), || {
                let what = format!("Secret {name} in the namespace {namespace}");
                let remote = Remote::new(what, self.changes.clone());
                Held::new(
                    remote.clone(),
                    listen(client.clone(), id.clone(), self.pace, remote),
                )
            }),
        )
    }

    fn hold(&self, name: Name, begin: impl FnOnce() -> Arc<Held>) -> Arc<Held> {
        let mut known = self.held.lock();
        if let Some(held) = known.get(&name).and_then(Weak::upgrade) {
            return held;
        }
        let held = begin();
        known.insert(name, Arc::downgrade(&held));
        held
    }
}

/// Hears of a Secret for as long as it is polled.
async fn listen(client: ::kube::Client, id: SecretId, pace: Pace, remote: Arc<Remote>) {
    let heard = {
        let remote = remote.clone();
        move || remote.heard()
    };
    kube::watch(client, id.clone(), pace, heard, |said| match said {
        Ok(data) => remote.is(data.map(values)),
        Err(fault) => remote.fails(fault.tell(&id), fault.is_final()),
    })
    .await;
}

fn values(data: Data) -> BTreeMap<String, Value> {
    data.into_iter()
        .map(|(key, bytes)| (key, Value::new(bytes)))
        .collect()
}

impl Known {
    /// Each one's kind, name, and the seconds since it was heard of.
    pub(crate) fn ages(&self) -> Vec<([String; 2], f64)> {
        self.each(|(kind, name), held| {
            Some((
                [(*kind).to_owned(), name.clone()],
                held.remote.age().as_secs_f64(),
            ))
        })
    }

    /// What is amiss, a line each.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.each(|_, held| held.remote.note())
    }

    fn each<T>(&self, of: impl Fn(&Name, &Held) -> Option<T>) -> Vec<T> {
        let mut known = self.lock();
        known.retain(|_, held| held.strong_count() > 0);
        known
            .iter()
            .filter_map(|(name, held)| of(name, &*held.upgrade()?))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Weak<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
