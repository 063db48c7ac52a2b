//! Tests of secrets in a real OpenBao, whose API is Vault's, with the service accounts of a real Kubernetes API server:
//! `make test-kube`.

use std::{
    fs,
    ops::{Deref, DerefMut},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kernelseal_servers::{ApiServer, OpenBao};
use serde_json::json;

use super::{
    Open, Sources,
    vault::{self, configuration},
};
use crate::{
    secrets::{SecretBackends, backends::vault::PollPolicy},
    util::RetryPolicy,
};

/// A start waits so long here, at most: this server is one of several programs at work.
const WAIT: Duration = Duration::from_secs(20);
/// As with the server that stands for Vault, but for how long this one may take.
const POLL_POLICY: PollPolicy = PollPolicy {
    retry_policy: RetryPolicy {
        answer_within: Duration::from_secs(10),
        ..vault::POLL_POLICY.retry_policy
    },
    ..vault::POLL_POLICY
};

/// The one of this process, which believes the API server of this process.
static SHARED: LazyLock<OpenBao> = LazyLock::new(|| {
    let server = OpenBao::start().expect("OpenBao");
    server.trust(ApiServer::shared()).expect("service accounts");
    server
});

/// A secret, a policy and a role that no other test has, and an agent's sources.
struct Scene {
    server: &'static OpenBao,
    /// What all three are called, and the namespace of the account.
    name: String,
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
    /// Where the service account `shop` may log in and read a secret with this password.
    fn new(password: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let api = ApiServer::shared();
        let name = format!("bao-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        api.namespace(&name).unwrap();
        let jwt = api.account(&name, "shop", "none").unwrap();
        let scene = Self {
            server: &SHARED,
            name,
            sources: Sources::new(async |_| SecretBackends::with_vault(POLL_POLICY)),
        };
        scene.write("jwt", &jwt);
        scene.write("ca.crt", &scene.server.authority().pem());
        scene.password(password);
        scene.server.allow(&scene.name, &scene.path()).unwrap();
        scene.role(&json!({}));
        scene
    }

    /// The role, with the tokens that it gives.
    fn role(&self, tokens: &serde_json::Value) {
        let mut role = tokens.clone();
        role["bound_service_account_names"] = json!("shop");
        role["bound_service_account_namespaces"] = json!(self.name);
        role["token_policies"] = json!([self.name]);
        let path = format!("auth/kubernetes/role/{}", self.name);
        self.server.administer(&path, &role).unwrap();
    }

    fn path(&self) -> String {
        format!("secret/data/{}", self.name)
    }

    fn password(&self, password: &str) {
        let data = json!({"password": password});
        self.server.put(&self.path(), &data).unwrap();
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    fn logged_in(&self) -> String {
        let jwt = self.dir.path().join("jwt");
        format!(
            "{{kubernetes: {{role: {}, tokenFile: {}}}}}",
            self.name,
            jwt.display()
        )
    }

    fn by_file(&self) -> String {
        format!("{{tokenFile: {}}}", self.dir.path().join("token").display())
    }

    /// Of the secret's keys, as this configuration of who we are finds them.
    fn open_as(&mut self, auth: &str, keys: &[&str]) -> Open {
        let path = self.path();
        let keys = keys
            .iter()
            .map(|key| format!("{{path: {path}, key: {key}}}"));
        self.open_with(&format!("auth: {auth}"), &keys.collect::<Vec<_>>())
    }

    /// With more in the section than where it is.
    fn open_with(&mut self, more: &str, references: &[String]) -> Open {
        let (url, ca) = (self.server.url(), self.dir.path().join("ca.crt"));
        let section = format!("{{address: '{url}', caFile: {}, {more}}}", ca.display());
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        let config = configuration(&section, &references);
        let opened = self.sources.open(&config, WAIT);
        opened.unwrap_or_else(|wrong| panic!("{wrong:?}"))
    }
}

#[test]
fn a_service_account_logs_in_and_reads_what_its_policy_allows() {
    let mut scene = Scene::new("first");
    let auth = scene.logged_in();
    let open = scene.open_as(&auth, &["password"]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    assert_eq!(scene.notes(), "");
    scene.password("second");
    scene.until_password(&open, "second");
    scene.server.delete(&scene.path()).unwrap();
    scene.until("deleted", || open.find(0).is_err());
    assert!(
        open.error(0).contains("there is no Vault secret"),
        "{}",
        open.error(0)
    );
    scene.password("third");
    scene.until_password(&open, "third");
}

#[test]
fn scalars_are_what_the_server_makes_of_them() {
    let mut scene = Scene::new("");
    let data =
        json!({"text": "ü\n\"'", "port": 5432, "on": true, "empty": "", "nested": {"a": "b"}});
    scene.server.put(&scene.path(), &data).unwrap();
    let auth = scene.logged_in();
    let open = scene.open_as(&auth, &["text", "port", "on", "empty", "nested"]);
    for (at, value) in ["ü\n\"'", "5432", "true", ""].into_iter().enumerate() {
        assert!(open.is(at, value), "{value}");
    }
    assert!(
        open.error(4).contains("not text, a number or a boolean"),
        "{}",
        open.error(4)
    );
}

#[test]
fn a_login_that_ends_is_followed_by_another() {
    let mut scene = Scene::new("first");
    // Renewed once or so: then it has lived as long as it may.
    scene.role(&json!({"token_ttl": "2s", "token_max_ttl": "3s"}));
    let auth = scene.logged_in();
    let open = scene.open_as(&auth, &["password"]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    scene.work(Duration::from_secs(5));
    scene.password("second");
    scene.until_password(&open, "second");
    scene.until("quiet", || scene.notes().is_empty());
}

#[test]
fn what_the_server_refuses_is_told_with_the_remedy() {
    let mut scene = Scene::new("hunter2");
    let (good, name) = (scene.logged_in(), scene.name.clone());
    let said = scene
        .open_as(&good.replace(&name, "nobody"), &["password"])
        .error(0);
    assert!(
        said.contains("refused the login as the role nobody") && said.contains("(400)"),
        "{said}"
    );
    let elsewhere = good.replace("role:", "mount: k8s, role:");
    let said = scene.open_as(&elsewhere, &["password"]).error(0);
    assert!(
        said.contains("auth/k8s (403)") && said.contains("mounted there"),
        "{said}"
    );
    // Another service account of the same namespace.
    let jwt = ApiServer::shared().account(&name, "guest", "none").unwrap();
    scene.write("guest", &jwt);
    let said = scene
        .open_as(&good.replace("/jwt", "/guest"), &["password"])
        .error(0);
    assert!(
        said.contains("(403)") && said.contains("service account"),
        "{said}"
    );
    assert!(!said.contains(&jwt), "a token is told");
    let other = format!("{{path: secret/data/{name}/other, key: password}}");
    let said = scene.open_with(&format!("auth: {good}"), &[other]).error(0);
    let policy =
        format!("path \"secret/data/{name}/other\" {{ capabilities = [\"read\"] }} allows it");
    assert!(said.contains(&policy), "{said}");
}

#[test]
fn another_engine_is_told() {
    let mut scene = Scene::new("");
    let (mount, auth) = (format!("old-{}", scene.name), scene.logged_in());
    let server = scene.server;
    server
        .administer(&format!("sys/mounts/{mount}"), &json!({"type": "kv"}))
        .unwrap();
    server
        .administer(&format!("{mount}/app"), &json!({"password": "hunter2"}))
        .unwrap();
    server.allow(&scene.name, &format!("{mount}/app")).unwrap();
    let there = format!("{{path: {mount}/app, key: password}}");
    let said = scene.open_with(&format!("auth: {auth}"), &[there]).error(0);
    assert!(
        said.contains("version 2") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_token_of_a_file_is_renewed_and_another_is_taken_up() {
    let mut scene = Scene::new("first");
    let short = json!({"policies": [scene.name, "default"], "period": "10s"});
    let token = scene.server.token(&short).unwrap();
    scene.write("token", &token);
    let auth = scene.by_file();
    let open = scene.open_as(&auth, &["password"]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    scene.work(Duration::from_secs(12));
    scene.password("renewed");
    scene.until_password(&open, "renewed");
    let revoked = json!({"token": token});
    scene
        .server
        .administer("auth/token/revoke", &revoked)
        .unwrap();
    scene.until("refused", || scene.notes().contains("the token in "));
    assert!(!scene.notes().contains(&token), "a token is told");
    scene.password("second");
    let next = scene.server.token(&short).unwrap();
    scene.write("token", &next);
    scene.until_password(&open, "second");
    scene.until("quiet", || scene.notes().is_empty());
}

#[test]
fn a_namespace_is_its_own() {
    let mut scene = Scene::new("outside");
    let (team, server, auth) = (scene.name.clone(), scene.server, scene.by_file());
    let within = |path: &str| format!("{team}/{path}");
    for (path, body) in [
        (format!("sys/namespaces/{team}"), json!({})),
        (
            within("sys/mounts/secret"),
            json!({"type": "kv", "options": {"version": "2"}}),
        ),
        (
            within(&scene.path()),
            json!({"data": {"password": "within"}}),
        ),
    ] {
        server.administer(&path, &body).unwrap();
    }
    let rule = format!(
        "path \"{}\" {{ capabilities = [\"read\"] }}",
        within(&scene.path())
    );
    let policy = format!("sys/policies/acl/across-{team}");
    server
        .administer(&policy, &json!({"policy": rule}))
        .unwrap();
    let asked = json!({"policies": [format!("across-{team}")]});
    scene.write("token", &server.token(&asked).unwrap());
    let there = [format!("{{path: {}, key: password}}", scene.path())];
    let open = scene.open_with(&format!("namespace: {team}, auth: {auth}"), &there);
    assert!(open.is(0, "within"), "{}", open.error(0));
    let said = scene.open_with(&format!("auth: {auth}"), &there).error(0);
    assert!(said.contains("(403)"), "{said}");
    let elsewhere = format!("namespace: none-{team}, auth: {auth}");
    let said = scene.open_with(&elsewhere, &there).error(0);
    assert!(said.contains("`vault.namespace`"), "{said}");
}

#[test]
fn a_sealed_server_is_told_and_its_secrets_are_served_from_memory() {
    // One of its own: the others need theirs.
    let server: &'static OpenBao = Box::leak(Box::new(OpenBao::start().unwrap()));
    let mut scene = Scene::new("");
    scene.server = server;
    scene.write("ca.crt", &server.authority().pem());
    scene.password("first");
    server.allow(&scene.name, &scene.path()).unwrap();
    let asked = json!({"policies": [scene.name, "default"]});
    scene.write("token", &server.token(&asked).unwrap());
    let auth = scene.by_file();
    let open = scene.open_as(&auth, &["password"]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    server.administer("sys/seal", &json!({})).unwrap();
    scene.until("told", || scene.notes().contains("vault operator unseal"));
    assert!(
        scene.notes().contains("is served as it was"),
        "{}",
        scene.notes()
    );
    assert!(open.is(0, "first"), "{}", open.error(0));
    server.unseal().unwrap();
    scene.password("second");
    scene.until_password(&open, "second");
    scene.until("quiet", || scene.notes().is_empty());
}
