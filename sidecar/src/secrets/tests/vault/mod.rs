//! Tests of secrets read from a server that behaves as Vault does, over TLS.

mod faults;
mod reading;
mod tokens;

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    time::Duration,
};

use kernelseal_servers::{Lease, VAULT_ROLE, VaultFault, VaultServer};
use serde_json::json;

use super::{Open, STEP, Sources, WAIT};
use crate::{
    config::{self, Config, Position},
    secrets::{SecretBackends, SourceError, backends::vault::PollPolicy},
    util::RetryPolicy,
};

/// Faster than the product's.
pub(super) const POLL_POLICY: PollPolicy = PollPolicy {
    retry_policy: RetryPolicy {
        answer_within: Duration::from_secs(1),
        retry_after: Duration::from_millis(40),
        retry_after_many: Duration::from_millis(150),
    },
    refresh: Duration::from_millis(60),
    apart: Duration::from_millis(20),
    login_apart: Duration::from_millis(300),
};
/// The secret of most tests.
const APP: &str = "secret/data/app";
/// What a service account proves itself by here.
const JWT: &str = "eyJhbGciOi.eyJpc3Mi.c2lnbmF0dXJl";

/// A server, and an agent's sources.
struct Scene {
    server: VaultServer,
    sources: Sources,
    /// How long a start waits.
    wait: Duration,
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
    /// Of which a start is known not to come to an end by itself.
    fn impatient(self) -> Self {
        Self { wait: STEP, ..self }
    }

    /// With a secret whose `password` is this, and the right to read and to log in.
    fn new(password: &str) -> Self {
        Self::of(VaultServer::start().unwrap(), password, POLL_POLICY)
    }

    fn of(server: VaultServer, password: &str, poll_policy: PollPolicy) -> Self {
        let scene = Self {
            server,
            sources: Sources::new(async |_| SecretBackends::with_vault(poll_policy)),
            wait: WAIT,
        };
        scene.server.accept(JWT, Lease::NONE);
        scene.server.allow(APP, true);
        scene.password(password);
        scene.file("ca.crt", &scene.server.authority().pem());
        scene.file("jwt", &format!("{JWT}\n"));
        scene
    }

    fn password(&self, password: &str) {
        self.server.put(APP, Some(json!({"password": password})));
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `auth`: a login, or the token in the file `token`.
    fn login(&self) -> String {
        let jwt = self.dir.path().join("jwt");
        format!(
            "{{kubernetes: {{role: {VAULT_ROLE}, tokenFile: {}}}}}",
            jwt.display()
        )
    }

    fn by_file(&self) -> String {
        format!("{{tokenFile: {}}}", self.dir.path().join("token").display())
    }

    /// A section, with a namespace if it begins with one.
    fn section(&self, auth: &str) -> String {
        let (url, ca) = (self.server.url(), self.dir.path().join("ca.crt"));
        format!(
            "{{address: '{url}', caFile: {}, auth: {auth}}}",
            ca.display()
        )
    }

    fn open(&mut self, references: &[&str]) -> Open {
        let section = self.section(&self.login());
        self.open_with(&section, references)
    }

    fn open_with(&mut self, section: &str, references: &[&str]) -> Open {
        self.try_open(section, references)
            .unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }

    fn try_open(
        &mut self,
        section: &str,
        references: &[&str],
    ) -> Result<Open, Vec<(Position, SourceError)>> {
        self.sources
            .open(&configuration(section, references), self.wait)
    }

    /// Waits until there is this reason for there being no value.
    fn until_error(&self, open: &Open, why: &str) -> String {
        self.until(why, || open.error(0).contains(why));
        open.error(0)
    }

    /// How many requests so far were these.
    fn count(&self, request: &str) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|r| r.starts_with(request)).count()
    }
}

const PASSWORD: &str = "{path: secret/data/app, key: password}";
const LOGIN: &str = "POST auth/kubernetes/login";
const RENEWAL: &str = "POST auth/token/renew-self 200";
const READING: &str = "GET secret/data/app";

pub(super) fn configuration(section: &str, references: &[&str]) -> Config {
    let refs: Vec<_> = references
        .iter()
        .enumerate()
        .map(|(at, text)| format!("{{name: S{at}, source: {{vaultRef: {text}}}}}"))
        .collect();
    let text = format!(
        "version: v1\nvault: {section}\nsecrets:\n  - name: a\n    selector: {{binary: /a}}\n    secretRefs: [{}]\n",
        refs.join(", ")
    );
    config::parse(&text, Path::new("config.yaml")).unwrap_or_else(|e| panic!("{e}"))
}
