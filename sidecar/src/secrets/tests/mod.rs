//! Tests of secrets that are kept elsewhere: in a real Kubernetes API server (`make test-kube`), and in Vault.

mod faults;
mod reading;
mod vault;

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use ::kube::config::Kubeconfig;
use kernelseal_servers::{AGENT_TOKEN, ApiServer, Proxy};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::sleep,
};

use super::{Origins, SourceError, Store, Value};
use crate::{
    config::{self, Config, Source},
    kube::{Cluster, Pace},
};

/// Until then, what is to happen has happened.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
/// A start waits so long here.
const WAIT: Duration = Duration::from_secs(3);
/// Faster than the product's.
const PACE: Pace = Pace {
    answer_within: Duration::from_secs(2),
    watch_for: Duration::from_secs(3),
    apart: Duration::from_millis(200),
    retry_after: Duration::from_millis(100),
    retry_after_many: Duration::from_millis(500),
};

/// A namespace of its own, an agent's sources, and a proxy before the server they talk to.
struct Scene {
    server: &'static ApiServer,
    proxy: Proxy,
    namespace: String,
    runtime: Runtime,
    origins: Origins,
    changes: watch::Receiver<u64>,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let server = ApiServer::shared();
        Self::behind(Proxy::before(server).unwrap())
    }

    fn behind(proxy: Proxy) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let server = ApiServer::shared();
        let namespace = format!("scene-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.namespace(&namespace).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = server
            .kubeconfig(dir.path(), proxy.url(), &namespace, AGENT_TOKEN)
            .unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let origins = runtime.block_on(async {
            let cluster = Cluster::of(Kubeconfig::read_from(file).unwrap()).await;
            Origins::of(cluster.unwrap(), PACE)
        });
        Self {
            server,
            proxy,
            namespace,
            runtime,
            changes: origins.changes().listen(),
            origins,
            dir,
        }
    }

    /// With the Secret `db` that has a `password`, and the right to read it.
    fn with_password(password: &str) -> Self {
        let scene = Self::new();
        scene.password(password);
        scene.server.allow(&scene.namespace, "db").unwrap();
        scene
    }

    fn password(&self, password: &str) {
        let data: &[(&str, &[u8])] = &[("password", password.as_bytes())];
        self.server
            .secret(&self.namespace, "db", Some(data))
            .unwrap();
    }

    /// A configuration with these references, `{name: db, key: password}`.
    fn config(&self, references: &[&str]) -> Config {
        let refs: Vec<_> = references
            .iter()
            .enumerate()
            .map(|(at, text)| format!("{{name: S{at}, source: {{secretKeyRef: {text}}}}}"))
            .collect();
        let text = format!(
            "version: v1\nsecretsDir: {}\nsecrets:\n  - name: a\n    selector: {{binary: /a}}\n    secretRefs: [{}]\n",
            self.dir.path().join("mounted").display(),
            refs.join(", ")
        );
        config::parse(&text, Path::new("config.yaml")).unwrap()
    }

    fn open(&mut self, references: &[&str]) -> Open {
        let config = self.config(references);
        let store = self.runtime.block_on(async {
            let store = Store::open(&config, &mut self.origins).await;
            let store = store.unwrap_or_else(|wrong| panic!("{wrong:?}"));
            store.settle(WAIT).await;
            store
        });
        let refs = &config.secrets[0].secret_refs;
        let sources = refs.iter().map(|secret| secret.source.clone()).collect();
        Open { store, sources }
    }

    /// Lets the runtime work until something is so.
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < SOON, "not {what} within {SOON:?}");
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
        self.origins.known().notes().join("\n")
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
