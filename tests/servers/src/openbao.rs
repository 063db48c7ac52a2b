//! A real OpenBao, the free continuation of Vault, from the program that `KERNELSEAL_OPENBAO` names.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    ADMIN_TOKEN, ApiServer, Authority,
    administrator::client,
    api::{attempt, free_port},
    leash::Leash,
};

/// How long it may take to answer. A machine at its limit takes a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(50);

/// A running server, with TLS, unsealed, and with a key-value engine of version 2 at `secret/`.
pub struct OpenBao {
    url: String,
    authority: Authority,
    runtime: Runtime,
    client: Client,
    root: String,
    unseal: String,
    _process: Leash,
    dir: TempDir,
}

impl OpenBao {
    /// Starts one, on loopback.
    pub fn start() -> Result<Self> {
        let program = program()?;
        attempt(|| Self::try_start(&program))
    }

    fn try_start(program: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let identity = authority.identity()?;
        let certificate = dir.path().join("server.crt");
        let key = dir.path().join("server.key");
        fs::write(&certificate, identity.certificate_pem())?;
        fs::write(&key, identity.key_pem())?;
        let address = format!("{}:{}", Ipv4Addr::LOCALHOST, free_port()?);
        let url = format!("https://{address}");
        let listener =
            json!({"tcp": {"address": address, "tls_cert_file": certificate, "tls_key_file": key}});
        let config = json!({"storage": {"inmem": {}}, "listener": listener, "api_addr": url});
        let file = dir.path().join("config.json");
        fs::write(&file, config.to_string())?;
        let arguments = ["server".to_owned(), format!("-config={}", file.display())];
        let process = Leash::start(program, &arguments, dir.path())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = {
            let _here = runtime.enter();
            client(&url, &authority.pem(), None)?
        };
        let mut server = Self {
            url,
            authority,
            runtime,
            client,
            root: String::new(),
            unseal: String::new(),
            _process: process,
            dir,
        };
        server.initialize()?;
        Ok(server)
    }

    fn initialize(&mut self) -> Result<()> {
        let one_key = json!({"secret_shares": 1, "secret_threshold": 1});
        let begun = Instant::now();
        let keys = loop {
            match self.call(Method::PUT, "sys/init", &one_key) {
                Ok(keys) => break keys,
                Err(_) if begun.elapsed() < READY_WITHIN => sleep(STEP),
                Err(e) => {
                    let log = fs::read_to_string(self.dir.path().join("bao.log"))?;
                    return Err(e.context(format!("its log:\n{log}")));
                }
            }
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.root = text(&keys["root_token"]).context("no root token")?;
        self.unseal = text(&keys["keys"][0]).context("no key")?;
        self.unseal()?;
        let engine = json!({"type": "kv", "options": {"version": "2"}});
        self.administer("sys/mounts/secret", &engine)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who signed its certificate.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Opens it, and waits until it serves.
    pub fn unseal(&self) -> Result<()> {
        self.administer("sys/unseal", &json!({"key": self.unseal}))?;
        let begun = Instant::now();
        while self.call(Method::GET, "sys/health", &Value::Null).is_err() {
            ensure!(begun.elapsed() < READY_WITHIN, "it does not serve");
            sleep(STEP);
        }
        Ok(())
    }

    /// What its administrator writes at a path of its API.
    pub fn administer(&self, path: &str, body: &Value) -> Result<()> {
        self.call(Method::PUT, path, body).map(drop)
    }

    /// What its administrator deletes there.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.call(Method::DELETE, path, &Value::Null).map(drop)
    }

    /// Writes a secret's next version.
    pub fn put(&self, path: &str, data: &Value) -> Result<()> {
        self.administer(path, &json!({"data": data}))
    }

    /// The policy of this name lets its holders read a path.
    pub fn allow(&self, policy: &str, path: &str) -> Result<()> {
        let rule = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
        let path = format!("sys/policies/acl/{policy}");
        self.administer(&path, &json!({"policy": rule}))
    }

    /// A new token, as `auth/token/create` is asked for it.
    pub fn token(&self, asked: &Value) -> Result<String> {
        let said = self.call(Method::PUT, "auth/token/create", asked)?;
        let token = said["auth"]["client_token"].as_str();
        token.map(str::to_owned).context("no token")
    }

    /// Mounts the login of Kubernetes' service accounts, which an API server vouches for.
    pub fn trust(&self, server: &ApiServer) -> Result<()> {
        self.administer("sys/auth/kubernetes", &json!({"type": "kubernetes"}))?;
        let host = json!({
            "kubernetes_host": server.url(), "kubernetes_ca_cert": server.authority_pem(),
            "token_reviewer_jwt": ADMIN_TOKEN, "disable_local_ca_jwt": true,
        });
        self.administer("auth/kubernetes/config", &host)
    }

    fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("x-vault-token", &self.root)
            .body(body.to_string().into_bytes())?;
        let said = self.runtime.block_on(self.client.request_text(request));
        let said = said.with_context(|| format!("OpenBao, {path}"))?;
        if said.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&said)?)
    }
}

/// The program.
fn program() -> Result<PathBuf> {
    let Some(program) = env::var_os("KERNELSEAL_OPENBAO") else {
        bail!(
            "these tests talk to a real OpenBao. Set KERNELSEAL_OPENBAO to its program, bao; `make test-kube` fetches it (tests/servers/fetch)"
        );
    };
    let program = PathBuf::from(program);
    ensure!(
        program.is_file(),
        "KERNELSEAL_OPENBAO: there is no {}",
        program.display()
    );
    Ok(program)
}
