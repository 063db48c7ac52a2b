//! Sources: what a configuration names, looked up. Files are read at every delivery, so that a
//! changed file is picked up; the agent's environment is read once and wiped; what is kept elsewhere is
//! in memory, as it was heard last.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, zeroize::Zeroizing};

use super::{
    Value,
    backends::{environ, file::read, vault::TrustError},
    cache::{Held, RemoteError},
    secret_backends::{self, SecretBackends},
};
use crate::{
    config::{Config, Position, SecretKeyRef, Source, VaultRef},
    kube::{ClusterError, SecretId},
};

/// A source that gives no value. Says which, never what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A file.
    #[error("fileRef {path}: {cause}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A variable.
    #[error("envRef {0}: the agent has no such variable. Set it where the agent is started")]
    Env(String),
    /// A Kubernetes Secret that is not where it would be mounted, and no API to ask for it.
    #[error(
        "secretKeyRef {reference}: {cause}. Mount the Secret at {place}, or let the agent read it from the API: with a service account's token in its container (automountServiceAccountToken), or KUBECONFIG in its environment"
    )]
    Mounted {
        /// `name/key`
        reference: String,
        /// Where we looked.
        place: String,
        /// Why.
        cause: io::Error,
    },
    /// A Kubernetes Secret, read from the API.
    #[error("secretKeyRef {reference}: {cause}")]
    Remote {
        /// `name/key`
        reference: String,
        /// Why.
        cause: RemoteError,
    },
    /// The API's credentials.
    #[error("secretKeyRef {reference}: it is not mounted, and the API cannot be asked: {cause}")]
    Cluster {
        /// `name/key`
        reference: String,
        /// Why.
        cause: ClusterError,
    },
    /// A secret in Vault.
    #[error("vaultRef {path}: {cause}")]
    Vault {
        /// Its path.
        path: String,
        /// Why.
        cause: RemoteError,
    },
    /// Whom to believe that it is Vault.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl SourceError {
    /// Whether the source is known to have no such secret, which one that is optional need not have.
    fn is_absence(&self) -> bool {
        match self {
            Self::Mounted { cause, .. } => cause.kind() == io::ErrorKind::NotFound,
            Self::Remote { cause, .. } => cause.is_absence(),
            _ => false,
        }
    }
}

/// What is known of the sources. Values of files are not kept.
pub(crate) struct Store {
    environ: HashMap<String, Value>,
    secrets_dir: PathBuf,
    /// Those that were not mounted at start.
    held: HashMap<SecretKeyRef, Arc<Held>>,
    /// By their paths.
    vault: HashMap<String, Arc<Held>>,
}

impl Store {
    /// Takes what can be taken at start, and checks what must be there then: a `secretKeyRef` that is
    /// neither mounted nor to be asked for is an error, with its place in the configuration. What is kept
    /// elsewhere is asked for by tasks of the tokio runtime it needs, and not waited for: nothing of it
    /// is in memory until the runtime is next given its turn.
    pub(crate) async fn open(
        config: &Config,
        backends: &mut SecretBackends,
    ) -> Result<Self, Vec<(Position, SourceError)>> {
        let refs = || {
            config
                .secrets
                .iter()
                .flat_map(|binding| &binding.secret_refs)
        };
        let names: Vec<&str> = refs()
            .filter_map(|secret| match &secret.source {
                Source::EnvRef(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let environ = backends.environ(&names).map_err(|cause| {
            let path = environ::MEMORY.into();
            vec![(
                Position { line: 1, column: 1 },
                SourceError::File { path, cause },
            )]
        })?;
        let mut store = Self {
            environ,
            secrets_dir: config.secrets_dir.clone(),
            held: HashMap::new(),
            vault: HashMap::new(),
        };
        let mut wrong = Vec::new();
        for secret in refs() {
            if let Source::SecretKeyRef(key) = &secret.source
                && let Err(error) = store.look_for(key, backends).await
            {
                wrong.push((secret.at, error));
            }
        }
        // (last: a session with another Vault is begun only for a configuration that is taken)
        if wrong.is_empty()
            && let Some(vault) = &config.vault
            && let Err(cause) = backends.vault(vault)
        {
            wrong.push((vault.at, cause.into()));
        }
        for secret in refs() {
            if let Source::VaultRef(VaultRef { path, .. }) = &secret.source
                && let Some(held) = backends.vault_secret(path)
            {
                store.vault.insert(path.clone(), held);
            }
        }
        if wrong.is_empty() {
            Ok(store)
        } else {
            Err(wrong)
        }
    }

    /// The files that values are read from: one that changes is another value, maybe.
    pub(crate) fn files(&self, config: &Config) -> Vec<PathBuf> {
        let refs = config
            .secrets
            .iter()
            .flat_map(|binding| &binding.secret_refs);
        let mut files: Vec<_> = refs
            .filter_map(|secret| match &secret.source {
                Source::FileRef(file) => Some(file.path.clone()),
                Source::SecretKeyRef(key) if !self.held.contains_key(key) => {
                    Some(self.place(key).join(&key.key))
                }
                _ => None,
            })
            .collect();
        files.sort();
        files.dedup();
        files
    }

    /// Where a Secret is mounted, if it is.
    fn place(&self, secret: &SecretKeyRef) -> PathBuf {
        let mut place = self.secrets_dir.clone();
        place.extend(&secret.namespace);
        place.push(&secret.name);
        place
    }

    /// Waits until what is kept elsewhere is known, or will not be soon.
    pub(crate) async fn settle(&self, longest: Duration) {
        let begun = Instant::now();
        for held in self.held.values().chain(self.vault.values()) {
            held.settle(longest.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Where a Secret will come from: the mount if it is there now, else the API.
    async fn look_for(
        &mut self,
        key: &SecretKeyRef,
        backends: &mut SecretBackends,
    ) -> Result<(), SourceError> {
        let unmounted = match self.mounted(key) {
            Err(error) if error.is_absence() => error,
            other => return other.map(drop),
        };
        let cluster = backends.cluster().await;
        let id = cluster
            .map_err(|cause| SourceError::Cluster {
                reference: reference(key),
                cause,
            })?
            .map(|cluster| SecretId {
                namespace: key
                    .namespace
                    .clone()
                    .unwrap_or_else(|| cluster.namespace().to_owned()),
                name: key.name.clone(),
            });
        let held = id.and_then(|id| backends.secret(&id));
        match held {
            Some(held) => {
                self.held.insert(key.clone(), held);
                Ok(())
            }
            None if key.optional => Ok(()),
            None => Err(unmounted),
        }
    }

    /// A source's value, now; nothing, if there need not be one and there is none.
    pub(crate) fn find(&self, source: &Source) -> Result<Option<Value>, SourceError> {
        let is_optional = matches!(source, Source::SecretKeyRef(key) if key.optional);
        match self.get(source) {
            Err(error) if is_optional && error.is_absence() => Ok(None),
            other => other.map(Some),
        }
    }

    /// A source's value, now.
    pub(crate) fn get(&self, source: &Source) -> Result<Value, SourceError> {
        match source {
            Source::Value(value) => Ok(Value::new(Zeroizing::new(
                value.expose_secret().as_bytes().to_vec(),
            ))),
            Source::EnvRef(name) => self
                .environ
                .get(name)
                .cloned()
                .ok_or_else(|| SourceError::Env(name.clone())),
            Source::FileRef(file) => {
                let mut bytes = read(&file.path).map_err(|cause| SourceError::File {
                    path: file.path.clone(),
                    cause,
                })?;
                while file.trim && bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    bytes.pop();
                }
                Ok(Value::new(bytes))
            }
            Source::SecretKeyRef(key) => match self.held.get(key) {
                Some(held) => held
                    .remote
                    .get(&key.key)
                    .map_err(|cause| SourceError::Remote {
                        reference: reference(key),
                        cause,
                    }),
                None => self.mounted(key),
            },
            Source::VaultRef(VaultRef { path, key }) => {
                let held = self.vault.get(path).ok_or_else(|| RemoteError::Unknown {
                    what: secret_backends::vault_name(path),
                    why: "no Vault is named".into(),
                });
                held.and_then(|held| held.remote.get(key))
                    .map_err(|cause| SourceError::Vault {
                        path: path.clone(),
                        cause,
                    })
            }
        }
    }

    /// A key of a Secret mounted as a directory, with or without its namespace above it.
    fn mounted(&self, secret: &SecretKeyRef) -> Result<Value, SourceError> {
        let place = self.place(secret);
        match read(&place.join(&secret.key)) {
            Ok(bytes) => Ok(Value::new(bytes)),
            Err(cause) => Err(SourceError::Mounted {
                reference: reference(secret),
                place: place.display().to_string(),
                cause,
            }),
        }
    }
}

fn reference(secret: &SecretKeyRef) -> String {
    format!("{}/{}", secret.name, secret.key)
}
