//! Tests of Secrets in a real Kubernetes API server: `make test-kube`.

mod faults;
mod reading;

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ::kube::config::Kubeconfig;
use kernelseal_servers::{AGENT_TOKEN, ApiServer, Proxy};

use super::{Open, Sources, WAIT};
use crate::{
    config::{self, Config},
    kube::{Cluster, PollPolicy},
    secrets::SecretBackends,
    util::RetryPolicy,
};

/// Faster than the product's.
const POLL_POLICY: PollPolicy = PollPolicy {
    retry_policy: RetryPolicy {
        answer_within: Duration::from_secs(2),
        retry_after: Duration::from_millis(100),
        retry_after_many: Duration::from_millis(500),
    },
    watch_for: Duration::from_secs(3),
    apart: Duration::from_millis(200),
};

/// A namespace of its own, an agent's sources, and a proxy before the server they talk to.
struct Scene {
    server: &'static ApiServer,
    proxy: Proxy,
    namespace: String,
    sources: Sources,
}

impl Deref for Scene {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        &self.sources
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Sources {
        &mut self.sources
    }
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
        let sources = Sources::new(async |dir| {
            let file = server
                .kubeconfig(dir, proxy.url(), &namespace, AGENT_TOKEN)
                .unwrap();
            let cluster = Cluster::of(Kubeconfig::read_from(file).unwrap()).await;
            SecretBackends::of(cluster.unwrap(), POLL_POLICY)
        });
        Self {
            server,
            proxy,
            namespace,
            sources,
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
        let opened = self.sources.open(&config, WAIT);
        opened.unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }
}
