//! `/metrics`, `/healthz` and `/ready`.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr},
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

/// Binds the port now, so that a port that is taken is a failure to start; the future serves. The notes,
/// as they are then, follow on lines of their own where all is ready.
pub(crate) async fn serve(
    port: u16,
    metrics: Metrics,
    ready: Arc<AtomicBool>,
    notes: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
) -> io::Result<impl Future<Output = io::Result<()>>> {
    let listener = listen(port).await?;
    let router = Router::new()
        .route("/metrics", get(async move || text(&metrics)))
        .route("/healthz", get(async || "ok\n"))
        .route("/ready", get(async move || readiness(&ready, notes())));
    Ok(async move { axum::serve(listener, router).await })
}

/// On every address. A pod may have none but IPv6, a machine none but IPv4.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        both => both,
    }
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

fn readiness(ready: &AtomicBool, notes: Vec<String>) -> impl IntoResponse + use<> {
    if ready.load(Ordering::Relaxed) {
        let lines = [vec!["ready".into()], notes].concat();
        (StatusCode::OK, lines.join("\n") + "\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not everything the policy asks for is attached\n".into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener as Plain, TcpStream};

    use super::*;

    fn listening(port: u16) -> io::Result<TcpListener> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(listen(port))
    }

    #[test]
    fn every_family_the_machine_has_is_answered() {
        let listener = listening(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if Plain::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_that_one_family_has_taken_is_taken() {
        let taken = Plain::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = listening(port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
