//! `/metrics`, `/healthz` and `/ready`.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use tokio::net::TcpListener;

use super::Metrics;

/// The text format's media type.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Binds the port now, so that a port that is taken is a failure to start; the future serves.
pub(crate) async fn serve(
    port: u16,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
) -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    let router = Router::new()
        .route("/metrics", get(async move || text(&metrics)))
        .route("/healthz", get(async || "ok\n"))
        .route("/ready", get(async move || readiness(&ready)));
    Ok(async move { axum::serve(listener, router).await })
}

fn text(metrics: &Metrics) -> impl IntoResponse + use<> {
    match metrics.text() {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, TEXT_FORMAT)], text),
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, TEXT_FORMAT)],
            e.to_string(),
        ),
    }
}

fn readiness(ready: &AtomicBool) -> impl IntoResponse + use<> {
    if ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not everything the policy asks for is attached\n",
        )
    }
}
