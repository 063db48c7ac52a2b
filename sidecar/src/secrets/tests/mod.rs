//! Tests of secrets that are kept elsewhere: in a Kubernetes API server, and in Vault.

#[cfg(feature = "test-kube")]
mod cluster;
#[cfg(feature = "test-kube")]
mod openbao;
mod vault;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::sleep,
};

use super::{SecretBackends, SourceError, Store, Value};
use crate::config::{Config, Position, Source};

/// Until then, what is to happen has happened.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
/// A start waits so long here, at most.
const WAIT: Duration = Duration::from_secs(3);

/// An agent's sources, and a folder for what they are told by files.
struct Sources {
    runtime: Runtime,
    backends: SecretBackends,
    changes: watch::Receiver<u64>,
    dir: TempDir,
}

impl Sources {
    fn new(backends: impl AsyncFnOnce(&Path) -> SecretBackends) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let backends = runtime.block_on(backends(dir.path()));
        Self {
            runtime,
            changes: backends.changes().listen(),
            backends,
            dir,
        }
    }

    fn open(
        &mut self,
        config: &Config,
        wait: Duration,
    ) -> Result<Open, Vec<(Position, SourceError)>> {
        let store = self.runtime.block_on(async {
            let store = Store::open(config, &mut self.backends).await?;
            store.settle(wait).await;
            Ok::<_, Vec<(Position, SourceError)>>(store)
        })?;
        let refs = &config.secrets[0].secret_refs;
        let sources = refs.iter().map(|secret| secret.source.clone()).collect();
        Ok(Open { store, sources })
    }

    /// Lets the runtime work until something is so.
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let notes = self.notes();
            assert!(
                begun.elapsed() < SOON,
                "not {what} within {SOON:?}: {notes}"
            );
            self.work(STEP);
        }
    }

    fn until_password(&self, open: &Open, password: &str) {
        self.until(password, || open.is(0, password));
    }

    fn work(&self, time: Duration) {
        self.runtime.block_on(async { sleep(time).await });
    }

    fn notes(&self) -> String {
        self.backends.known().notes().join("\n")
    }
}

/// An open store and the sources of its configuration.
struct Open {
    store: Store,
    sources: Vec<Source>,
}

impl Open {
    fn find(&self, at: usize) -> Result<Option<Value>, SourceError> {
        self.store.find(&self.sources[at])
    }

    fn is(&self, at: usize, value: &str) -> bool {
        matches!(self.find(at), Ok(Some(found)) if found.expose() == value.as_bytes())
    }

    /// Why there is no value.
    fn error(&self, at: usize) -> String {
        match self.find(at) {
            Err(e) => e.to_string(),
            Ok(found) => panic!("there is something: {}", found.is_some()),
        }
    }
}
