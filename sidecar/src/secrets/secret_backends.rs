//! What outlives a configuration: the variables that were taken, and the secrets of elsewhere that are
//! held. A store opened anew for another configuration finds them here as they are.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{
    Value,
    backends::{
        environ,
        vault::{self, Session, TrustError},
    },
    cache::{CachedSecret, Held, Keys},
    changes::Changes,
};
use crate::{
    config,
    kube::{self, Cluster, ClusterError, PollPolicy, SecretId},
};

/// What to do where there is no Secret.
const CREATE: &str = "Create it, or mark the reference `optional: true`";
/// What to do where Vault has no secret.
const WRITE: &str = "Vault answers 404. Write the secret (`vault kv put`), or correct the path. In the key-value engine, version 2, a path has `data/` after the mount (secret/data/app). It is looked up in the namespace that `vault.namespace` names";

/// See the module.
#[derive(Default)]
pub(crate) struct SecretBackends {
    environ: HashMap<String, Value>,
    kubernetes: Option<(Cluster, ::kube::Client)>,
    poll_policy: PollPolicy,
    vault: Option<Arc<Session>>,
    vault_policy: vault::PollPolicy,
    held: Known,
    changes: Changes,
}

/// A remote secret's name in metrics: its kind of keeper, and which.
type Name = (&'static str, String);

/// The kind of those in Vault.
const VAULT: &str = "vault";

/// Which remote secrets are held. Clones know the same.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Mutex<BTreeMap<Name, Weak<Held>>>>);

impl SecretBackends {
    /// Of a cluster, with a pace of its own.
    #[cfg(all(test, feature = "test-kube"))]
    pub(super) fn of(cluster: Cluster, poll_policy: PollPolicy) -> Self {
        let client = cluster.client().expect("a client");
        Self {
            kubernetes: Some((cluster, client)),
            poll_policy,
            ..Self::default()
        }
    }

    /// With a pace of its own for Vault.
    #[cfg(test)]
    pub(super) fn with_vault(vault_policy: vault::PollPolicy) -> Self {
        Self {
            vault_policy,
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
                let remote = CachedSecret::new(what, CREATE, self.changes.clone());
                Held::new(
                    remote.clone(),
                    listen(client.clone(), id.clone(), self.poll_policy, remote),
                )
            }),
        )
    }

    /// Speaks with this Vault from here on.
    pub(super) fn vault(&mut self, config: &config::Vault) -> Result<(), TrustError> {
        let is_known = |session: &Arc<Session>| session.config().is_like(config);
        if !self.vault.as_ref().is_some_and(is_known) {
            self.vault = Some(Arc::new(Session::new(config, self.vault_policy)?));
            // What another Vault has under these paths is another's.
            self.held.lock().retain(|(kind, _), _| *kind != VAULT);
        }
        Ok(())
    }

    /// A secret of Vault, read again and again from here on if it is not yet.
    pub(super) fn vault_secret(&self, path: &str) -> Option<Arc<Held>> {
        let session = self.vault.as_ref()?;
        Some(self.hold((VAULT, path.to_owned()), || {
            let remote = CachedSecret::new(vault_name(path), WRITE, self.changes.clone());
            Held::new(
                remote.clone(),
                read(session.clone(), path.to_owned(), remote),
            )
        }))
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

/// What messages call a secret of Vault.
pub(super) fn vault_name(path: &str) -> String {
    format!("Vault secret {path}")
}

/// Reads a secret of Vault for as long as it is polled.
async fn read(session: Arc<Session>, path: String, remote: Arc<CachedSecret>) {
    vault::watch(session.clone(), path.clone(), |said| match said {
        Ok(data) => remote.update(data.map(|data| {
            data.into_iter()
                .map(|(key, bytes)| (key, bytes.map(Value::new)))
                .collect()
        })),
        Err(fault) => remote.set_trouble(fault.tell(&path, session.config()), fault.is_final()),
    })
    .await;
}

/// Watches a Secret for as long as this is polled.
async fn listen(
    client: ::kube::Client,
    id: SecretId,
    poll_policy: PollPolicy,
    remote: Arc<CachedSecret>,
) {
    let heard = {
        let remote = remote.clone();
        move || remote.mark_fresh()
    };
    kube::watch(client, id.clone(), poll_policy, heard, |said| match said {
        Ok(data) => remote.update(data.map(values)),
        Err(fault) => remote.set_trouble(fault.tell(&id), fault.is_final()),
    })
    .await;
}

fn values(data: kube::Data) -> Keys {
    data.into_iter()
        .map(|(key, bytes)| (key, Some(Value::new(bytes))))
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
