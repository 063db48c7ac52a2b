//! `kernelseal webhook`: a mutating admission webhook that does for pods what `inject` does for manifests.
//!
//! `review` answers; `tls` has the certificate, and sees when it is renewed; here is the server, with a
//! limit to everything a caller may take.

mod review;
#[cfg(test)]
mod tests;
mod tls;

use std::{future::Future, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{Handle, tls_rustls::RustlsAcceptor};
use clap::Args;
use hyper_util::rt::TokioTimer;
use tokio::signal::unix::{SignalKind, signal};

use self::tls::Certificate;
use super::inject;
use crate::{
    config::{LogFormat, LogLevel},
    observe,
};

/// A review holds the object twice at most, and the API server takes none above 3 MiB.
const MAX_REVIEW: usize = 7 * 1024 * 1024;
/// The API server waits ten seconds unless told otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a handshake, and for the head of a request.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers under way have after a signal.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often the certificate's files are looked at. The kubelet renews a mounted Secret within a minute or so.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The webhook, and the sidecar it adds.
#[derive(Args)]
pub(crate) struct Options {
    /// The certificate, with those between it and the CA, in PEM. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    tls_cert: PathBuf,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// The port to listen on.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    #[command(flatten)]
    sidecar: inject::Options,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _log = observe::log::start(LogLevel::Info, LogFormat::Text);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let certificate = Certificate::load(&options.tls_cert, &options.tls_key)?;
        let listener = observe::listen(options.port)
            .await
            .with_context(|| {
                format!(
                    "port {} cannot be listened on; choose another with --port",
                    options.port
                )
            })?
            .into_std()?;
        tracing::info!(
            port = options.port,
            image = options.sidecar.image,
            "the webhook answers at /mutate"
        );
        let limits = Limits {
            request: REQUEST_TIMEOUT,
            look_again: LOOK_AGAIN,
        };
        serve(
            listener,
            certificate,
            options.sidecar.clone(),
            limits,
            told_to_stop(),
        )
        .await
    })
}

/// What tests have less of.
#[derive(Clone, Copy)]
struct Limits {
    request: Duration,
    look_again: Duration,
}

async fn serve(
    listener: TcpListener,
    certificate: Certificate,
    sidecar: inject::Options,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let acceptor = RustlsAcceptor::new(certificate.config()).handshake_timeout(GREETING_TIMEOUT);
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(acceptor)
        .handle(handle.clone())
        .http1_only();
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING_TIMEOUT);
    let serving = server.serve(router(sidecar, limits.request).into_make_service());
    tokio::pin!(serving, stop);
    tokio::select! {
        done = &mut serving => return done.context("the webhook's server"),
        () = certificate.keep_fresh(limits.look_again) => {}
        () = &mut stop => {}
    }
    handle.graceful_shutdown(Some(FAREWELL));
    serving.await.context("the webhook's server")
}

fn router(sidecar: inject::Options, limit: Duration) -> Router {
    let sidecar = Arc::new(sidecar);
    Router::new()
        .route(
            "/mutate",
            post(async move |body: Bytes| mutate(&body, &sidecar)),
        )
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
        .route("/healthz", get(async || "ok\n"))
        .layer(middleware::from_fn(move |request, next| {
            in_time(limit, request, next)
        }))
}

fn mutate(body: &[u8], sidecar: &inject::Options) -> Response {
    match review::answer(body, sidecar) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(why) => {
            tracing::warn!("a request was no review: {why}");
            (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
        }
    }
}

/// The time that reading a request and answering it may take together.
async fn in_time(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long to arrive\n",
        )
            .into_response(),
    }
}

async fn told_to_stop() {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
