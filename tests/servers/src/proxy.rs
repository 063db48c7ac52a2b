//! A proxy before the API server that shows the faults which a real one does not show on demand.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use kube::{Client, client::Body as KubeBody};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, time::sleep};

use crate::{
    ApiServer, Authority,
    tls::{Identity, TlsListener},
};

/// How the proxy misbehaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Not at all.
    None,
    /// Connections are closed at once, and those that are open are cut.
    Away,
    /// Requests are taken and never answered.
    Silent,
    /// Every request is refused with this status.
    Refuse(u16),
    /// Watches are refused with this status; lists work.
    RefuseWatches(u16),
    /// Watches are answered with an event that says this status, and end.
    EndWatches(u16),
    /// Watches are cut, in the middle of an answer, after so long.
    CutWatches(Duration),
    /// Watches begin and say nothing, nor do they end.
    SilentWatches,
    /// What the server answers comes a byte at a time, so far apart.
    Slow(Duration),
    /// In the answers to lists, the first text stands as the second.
    Garbled(&'static str, &'static str),
}

/// A running proxy.
pub struct Proxy {
    url: String,
    fault: Arc<watch::Sender<Fault>>,
    requests: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Shared {
    upstream: Client,
    fault: Arc<watch::Sender<Fault>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// One before a server, with a certificate that the server's clients trust.
    pub fn before(server: &ApiServer) -> Result<Self> {
        Self::with(server, &server.authority().identity()?)
    }

    /// One with a certificate of somebody else.
    pub fn of_a_stranger(server: &ApiServer) -> Result<Self> {
        Self::with(server, &Authority::new()?.identity()?)
    }

    fn with(server: &ApiServer, identity: &Identity) -> Result<Self> {
        let acceptor = identity.acceptor()?;
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let requests = Arc::default();
        let shared = Shared {
            upstream: server.client(None)?,
            fault: fault.clone(),
            requests: Arc::clone(&requests),
        };
        let tcp = server
            .runtime()
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let url = format!("https://{}", tcp.local_addr()?);
        let is_open = {
            let fault = fault.clone();
            move || *fault.borrow() != Fault::Away
        };
        let router = Router::new().fallback(async move |request| shared.answer(request).await);
        server.runtime().spawn(async move {
            let listener = TlsListener {
                tcp,
                acceptor,
                is_open,
            };
            axum::serve(listener, router).await
        });
        Ok(Self {
            url,
            fault,
            requests,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Misbehaves like this from now on. Watches that go on are cut.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// The requests so far: `list` or `watch`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Shared {
    async fn answer(&self, request: Request) -> Response {
        let is_watch = request.uri().query().unwrap_or("").contains("watch=true");
        let kind = if is_watch { "watch" } else { "list" };
        self.requests.lock().expect("no panic").push(kind.into());
        let mut until = self.fault.subscribe();
        let fault = until.borrow_and_update().clone();
        let mut response = match (fault, is_watch) {
            (Fault::Silent, _) => std::future::pending().await,
            (Fault::Refuse(code), _) | (Fault::RefuseWatches(code), true) => refusal(code),
            (Fault::EndWatches(code), true) => ended(code),
            (Fault::SilentWatches, true) => {
                Response::new(Body::from_stream(stream::pending::<Result<Bytes>>()))
            }
            (Fault::CutWatches(after), true) => cut(self.forward(request).await, sleep(after)),
            (Fault::Garbled(this, that), false) => {
                garbled(self.forward(request).await, this, that).await
            }
            (Fault::Slow(apart), _) => slow(self.forward(request).await, apart),
            (_, true) => {
                let changed = async move {
                    let _ = until.changed().await;
                };
                cut(self.forward(request).await, changed)
            }
            (_, false) => self.forward(request).await,
        };
        // One connection for each, so that each meets the fault of its time.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }

    async fn forward(&self, request: Request) -> Response {
        let (mut parts, _) = request.into_parts();
        parts.headers.remove(header::HOST);
        let request = axum::http::Request::from_parts(parts, KubeBody::empty());
        match self.upstream.send(request).await {
            Ok(response) => response.map(Body::new),
            Err(e) => (StatusCode::BAD_GATEWAY, e.to_string()).into_response(),
        }
    }
}

fn status(code: u16) -> serde_json::Value {
    let message = format!("secrets is forbidden: User \"proxied\" was told {code}");
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "Asked"})
}

fn refusal(code: u16) -> Response {
    let code_of_http = StatusCode::from_u16(code).expect("a status");
    (code_of_http, status(code).to_string()).into_response()
}

fn ended(code: u16) -> Response {
    Response::new(Body::from(
        json!({"type": "ERROR", "object": status(code)}).to_string() + "\n",
    ))
}

fn cut(response: Response, when: impl Future<Output = ()> + Send + 'static) -> Response {
    response.map(|body| {
        let end = stream::once(async move {
            when.await;
            Err(axum::Error::new("cut"))
        });
        let pieces = stream::select(body.into_data_stream(), Box::pin(end));
        // The first error ends it.
        Body::from_stream(pieces)
    })
}

fn slow(response: Response, apart: Duration) -> Response {
    response.map(|body| {
        let bytes = body.into_data_stream().flat_map(|piece| {
            let piece = piece.unwrap_or_default();
            stream::iter((0..piece.len()).map(move |at| piece.slice(at..=at)))
        });
        let bytes = bytes.then(move |byte| async move {
            sleep(apart).await;
            Ok::<_, axum::Error>(byte)
        });
        Body::from_stream(bytes)
    })
}

async fn garbled(response: Response, this: &str, that: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let whole = to_bytes(body, usize::MAX).await.expect("an answer");
    let text = String::from_utf8_lossy(&whole).replace(this, that);
    Response::from_parts(parts, Body::from(text))
}
