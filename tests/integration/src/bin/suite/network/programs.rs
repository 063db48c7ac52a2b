//! Real programs, by whatever call or library they connect.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Result, ensure};
use kernelseal_integration::probe;
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use serde_json::json;

use super::{LOOPBACK, SOON, about, ends, has, one, watching};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::netcat", || {
            ours("nc", |port| {
                let mut command = Command::new("nc");
                command.args(["127.0.0.1", &port.to_string()]);
                Ok(command)
            })
        })
        .test("network::an_http_client", || {
            ours("wget", |port| {
                let mut command = Command::new("wget");
                command.args(["-q", "-O", "-", &format!("http://127.0.0.1:{port}/")]);
                Ok(command)
            })
        })
        .test("network::a_tls_client", || {
            ours("tls-go", |port| {
                let mut command = Command::new(probe::path("tls-go")?);
                command.arg(port.to_string());
                Ok(command)
            })
        })
        .test("network::io_uring", || {
            ours("uring", |port| {
                let mut command = Command::new(probe::path("uring")?);
                command.arg(port.to_string());
                Ok(command)
            })
        })
}

/// A program that connects to us, sends what it sends, and ends when we close.
fn ours(name: &str, program: impl Fn(u16) -> Result<Command>) -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let listener = TcpListener::bind(LOOPBACK)?;
    let to = listener.local_addr()?;
    let mut running = process::spawn(&mut program(to.port())?)?;
    let (mut server, from) = listener.accept()?;
    // (netcat waits for its input's end, which has come; the others speak first)
    let mut heard = [0; 4096];
    let length = server.read(&mut heard)?;
    server.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
    drop(server);
    let pid = running.pid();
    running.wait(SOON)?;
    let events = about(&mut agent, to.port(), 4)?;
    for event in &events {
        has(event, &ends("TCP", from, to)?)?;
    }
    let who = json!({"pid": pid, "process": name});
    for kind in ["CONNECT", "CLOSE"] {
        has(one(&events, kind, "outbound")?, &who)?;
    }
    let closed = one(&events, "CLOSE", "outbound")?;
    let sent = closed["bytes_sent"].as_u64().unwrap_or(0);
    ensure!(sent >= u64::try_from(length)?, "{closed}");
    let us = one(&events, "ACCEPT", "inbound")?;
    ensure!(us["pid"] == std::process::id(), "{us}");
    Ok(())
}
