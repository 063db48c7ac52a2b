//! A server that behaves as Vault does, as far as its key-value engine, tokens and logins go, and misbehaves when asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{Authority, tls::TlsListener};

/// The role that may log in.
pub const VAULT_ROLE: &str = "shop";
/// Bytes of a request.
const LONGEST_REQUEST: usize = 64 * 1024;
/// Bytes of an answer that is too long.
const TOO_LONG: usize = 64 * 1024 * 1024;

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq)]
pub enum VaultFault {
    /// Not at all.
    None,
    /// Connections are closed at once.
    Away,
    /// Requests are taken and never answered.
    Silent,
    /// Every request is answered with this status. 503: as when it is sealed.
    Refuse(u16),
    /// Answers end in the middle of their bodies.
    Cut,
    /// Answers do not end.
    Endless,
    /// Secrets are answered with this.
    Says(String),
}

/// What tokens are like that a login gives.
#[derive(Clone, Copy)]
pub struct Lease {
    /// Seconds; 0: for ever.
    pub seconds: u64,
    /// Whether it can be renewed.
    pub is_renewable: bool,
    /// It cannot live longer, however often it is renewed.
    pub longest: Duration,
}

impl Lease {
    /// For ever.
    pub const NONE: Self = Self {
        seconds: 0,
        is_renewable: false,
        longest: Duration::MAX,
    };
}

/// A running server.
pub struct VaultServer {
    url: String,
    authority: Authority,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

struct State {
    fault: VaultFault,
    secrets: BTreeMap<String, Option<Value>>,
    secret_lease: u64,
    readable: BTreeSet<String>,
    tokens: BTreeMap<String, Token>,
    lease: Lease,
    jwt: String,
    namespace: Option<String>,
    requests: Vec<String>,
}

#[derive(Clone, Copy)]
struct Token {
    lease: Lease,
    born: Instant,
    ends: Option<Instant>,
}

impl Token {
    fn new(lease: Lease) -> Self {
        let born = Instant::now();
        let mut token = Self {
            lease,
            born,
            ends: None,
        };
        token.renew();
        token
    }

    fn renew(&mut self) {
        let now = Instant::now();
        let left = self.lease.longest.saturating_sub(now - self.born);
        let lease = Duration::from_secs(self.lease.seconds).min(left);
        self.ends = (self.lease.seconds > 0).then(|| now + lease);
    }

    fn left(&self) -> u64 {
        let half = Duration::from_millis(500);
        let left = |ends: Instant| ends.saturating_duration_since(Instant::now()) + half;
        self.ends.map_or(0, |ends| left(ends).as_secs())
    }

    fn is_good(&self) -> bool {
        self.ends.is_none_or(|ends| ends > Instant::now())
    }
}

impl VaultServer {
    /// One on loopback, with TLS.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, true)
    }

    /// One at an address of this machine. Its certificate, if it has one, is for 127.0.0.1 and localhost.
    pub fn start_at(ip: Ipv4Addr, has_tls: bool) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let authority = Authority::new()?;
        let acceptor = authority.identity()?.acceptor()?;
        let tcp = runtime.block_on(TcpListener::bind((ip, 0)))?;
        let scheme = if has_tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", tcp.local_addr()?);
        let state = Arc::new(Mutex::new(State {
            fault: VaultFault::None,
            secrets: BTreeMap::new(),
            secret_lease: 0,
            readable: BTreeSet::new(),
            tokens: BTreeMap::new(),
            lease: Lease::NONE,
            jwt: String::new(),
            namespace: None,
            requests: Vec::new(),
        }));
        let router = {
            let state = state.clone();
            Router::new().fallback(async move |request| answer(state, request).await)
        };
        let is_open = {
            let state = state.clone();
            move || lock(&state).fault != VaultFault::Away
        };
        runtime.spawn(async move {
            if has_tls {
                let listener = TlsListener {
                    tcp,
                    acceptor,
                    is_open,
                };
                axum::serve(listener, router).await
            } else {
                axum::serve(tcp, router).await
            }
        });
        Ok(Self {
            url,
            authority,
            state,
            _runtime: runtime,
        })
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

    /// Misbehaves like this from now on.
    pub fn set(&self, fault: VaultFault) {
        self.state().fault = fault;
    }

    /// Writes a secret's next version; `None` deletes it.
    pub fn put(&self, path: &str, data: Option<Value>) {
        self.state().secrets.insert(path.into(), data);
    }

    /// Lets everybody read a path, or nobody.
    pub fn allow(&self, path: &str, is_allowed: bool) {
        let mut state = self.state();
        if is_allowed {
            state.readable.insert(path.into());
        } else {
            state.readable.remove(path);
        }
    }

    /// What `lease_duration` secrets have.
    pub fn lend(&self, seconds: u64) {
        self.state().secret_lease = seconds;
    }

    /// Whose logins are taken, and what tokens they give.
    pub fn accept(&self, jwt: &str, lease: Lease) {
        let mut state = self.state();
        state.jwt = jwt.into();
        state.lease = lease;
    }

    /// Makes a token.
    pub fn token(&self, token: &str, lease: Lease) {
        let token = (token.to_owned(), Token::new(lease));
        self.state().tokens.extend([token]);
    }

    /// Revokes all tokens.
    pub fn revoke(&self) {
        self.state().tokens.clear();
    }

    /// Everything is in this namespace.
    pub fn within(&self, namespace: &str) {
        self.state().namespace = Some(namespace.into());
    }

    /// The requests so far, each with its answer's status: `GET secret/data/app 200`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(state: Arc<Mutex<State>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LONGEST_REQUEST).await.expect("a request");
    let path = parts.uri.path().strip_prefix("/v1/").unwrap_or("");
    let header = |name: &str| {
        let value = parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let asked = Asked {
        method: parts.method.clone(),
        path: path.to_owned(),
        token: header("x-vault-token"),
        namespace: header("x-vault-namespace"),
        body,
    };
    let fault = lock(&state).fault.clone();
    let (status, said) = match &fault {
        VaultFault::Refuse(503) => errors(503, "Vault is sealed"),
        VaultFault::Refuse(status) => errors(*status, "asked for"),
        _ => lock(&state).answer(&asked),
    };
    let line = format!("{} {} {status}", asked.method, asked.path);
    lock(&state).requests.push(line);
    let code = StatusCode::from_u16(status).expect("a status");
    let text = said.to_string();
    match fault {
        VaultFault::Silent => std::future::pending().await,
        VaultFault::Cut => {
            let half = Bytes::from(text[..text.len() / 2].to_owned());
            let pieces = stream::iter([Ok(half), Err(axum::Error::new("cut"))]);
            (code, Body::from_stream(pieces)).into_response()
        }
        VaultFault::Endless => {
            let piece = Bytes::from(vec![b' '; 64 * 1024]);
            let pieces = TOO_LONG / piece.len();
            let pieces = (0..pieces).map(move |_| Ok::<_, axum::Error>(piece.clone()));
            (code, Body::from_stream(stream::iter(pieces))).into_response()
        }
        VaultFault::Says(text) if asked.path.starts_with("secret/") => text.into_response(),
        VaultFault::Refuse(status @ 300..400) => {
            let there = [(header::LOCATION, "https://127.0.0.1:1/")];
            (StatusCode::from_u16(status).expect("a status"), there).into_response()
        }
        _ => (code, text).into_response(),
    }
}

struct Asked {
    method: Method,
    path: String,
    token: Option<String>,
    namespace: Option<String>,
    body: Bytes,
}

fn errors(status: u16, why: &str) -> (u16, Value) {
    (status, json!({"errors": [why]}))
}

impl State {
    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        if asked.namespace != self.namespace {
            return errors(404, "no handler for route");
        }
        if (&asked.method, asked.path.as_str()) == (&Method::POST, "auth/kubernetes/login") {
            return self.login(&asked.body);
        }
        let token = asked.token.as_ref().and_then(|t| self.tokens.get_mut(t));
        let Some(token) = token.filter(|token| token.is_good()) else {
            return errors(403, "permission denied: invalid token");
        };
        match (&asked.method, asked.path.as_str()) {
            (&Method::POST, "auth/token/renew-self") if token.lease.is_renewable => {
                token.renew();
                let lease = token.left();
                let again = json!({"client_token": asked.token, "lease_duration": lease, "renewable": true});
                (200, json!({"auth": again}))
            }
            (&Method::POST, "auth/token/renew-self") => errors(400, "lease is not renewable"),
            (&Method::GET, "auth/token/lookup-self") => {
                let looks = json!({"id": asked.token, "ttl": token.left(), "renewable": token.lease.is_renewable});
                (200, json!({"data": looks}))
            }
            (&Method::GET, path) if path.starts_with("secret/") => self.secret(path),
            _ => errors(404, "no handler for route"),
        }
    }

    fn login(&mut self, body: &[u8]) -> (u16, Value) {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        if said["role"] != VAULT_ROLE {
            return errors(400, "invalid role name");
        }
        if said["jwt"] != self.jwt.as_str() {
            return errors(403, "permission denied");
        }
        let token = format!("hvs.login-{}", self.requests.len());
        let lease = self.lease;
        self.tokens.insert(token.clone(), Token::new(lease));
        let auth = json!({"client_token": token, "lease_duration": lease.seconds, "renewable": lease.is_renewable});
        (200, json!({"auth": auth}))
    }

    fn secret(&self, path: &str) -> (u16, Value) {
        if !self.readable.contains(path) {
            return errors(403, "1 error occurred: permission denied");
        }
        let metadata = json!({"version": 1, "destroyed": false});
        match self.secrets.get(path) {
            Some(Some(data)) => {
                let data = json!({"data": data, "metadata": metadata});
                (
                    200,
                    json!({"lease_duration": self.secret_lease, "data": data}),
                )
            }
            Some(None) => (404, json!({"data": {"data": null, "metadata": metadata}})),
            None => (404, json!({"errors": []})),
        }
    }
}
