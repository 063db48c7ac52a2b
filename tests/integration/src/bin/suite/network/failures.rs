//! Attempts to connect that come to nothing.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use super::{LOOPBACK, about, ends, has, netns, one, watching};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::nobody_listens", nobody_listens)
        .test("network::nobody_answers", nobody_answers)
        .test("network::an_attempt_is_given_up", given_up)
        .test("network::broken_off_before_it_is_accepted", broken_off)
}

fn nobody_listens() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let port = free_port()?;
    for address in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(address.parse()?, port);
        let refused = TcpStream::connect(to).map(drop).unwrap_err();
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    }
    let events = about(&mut agent, port, 2)?;
    for (event, address) in events.iter().zip(["127.0.0.1", "::1"]) {
        has(
            event,
            &json!({"type": "CONNECT", "outcome": "refused", "direction": "outbound", "protocol": "TCP",
                "src_ip": address, "dst_ip": address, "dst_port": port, "pid": std::process::id()}),
        )?;
        ensure!(
            event["src_port"].as_u64().is_some_and(|port| port > 0),
            "{event}"
        );
    }
    Ok(())
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(LOOPBACK)?.local_addr()?.port())
}

/// A network whose other end answers nothing: a device of our own that swallows what is sent.
struct Void;

impl Void {
    const ADDRESS: &str = "198.51.100.7";

    fn new() -> Result<Self> {
        // (what comes out at its other end, which nobody has an address at; nobody is asked for a hardware address)
        for arguments in [
            "link add void type veth",
            "link set veth0 up",
            "addr add 198.51.100.1/24 dev void",
            "link set void arp off",
            "link set void up",
        ] {
            process::run(Command::new("ip").args(arguments.split(' ')))?;
        }
        Ok(Self)
    }
}

impl Drop for Void {
    fn drop(&mut self) {
        let _ = process::run(Command::new("ip").args(["link", "del", "void"]));
    }
}

fn nobody_answers() -> Result<()> {
    // after the second that the first SYN waits, not after two minutes
    const RETRIES: &str = "/proc/sys/net/ipv4/tcp_syn_retries";
    let before = fs::read_to_string(RETRIES)?;
    fs::write(RETRIES, "1")?;
    let _void = Void::new()?;
    let mut agent = watching(&json!({}))?;
    let to = SocketAddr::new(Void::ADDRESS.parse()?, 4443);
    let result = TcpStream::connect(to).map(drop);
    fs::write(RETRIES, before)?;
    let error = result.unwrap_err();
    ensure!(error.kind() == ErrorKind::TimedOut, "{error}");
    let events = about(&mut agent, to.port(), 1)?;
    has(
        &events[0],
        &json!({"type": "CONNECT", "outcome": "timed_out", "protocol": "TCP", "src_ip": "198.51.100.1",
            "dst_ip": Void::ADDRESS, "dst_port": 4443, "pid": std::process::id(), "netns": netns()?}),
    )
}

fn given_up() -> Result<()> {
    let _void = Void::new()?;
    let mut agent = watching(&json!({}))?;
    let to = SocketAddr::new(Void::ADDRESS.parse()?, 4443);
    let slow = TcpStream::connect_timeout(&to, Duration::from_millis(100)).map(drop);
    ensure!(slow.is_err_and(|error| error.kind() == ErrorKind::TimedOut));
    let events = about(&mut agent, to.port(), 1)?;
    has(
        &events[0],
        &json!({"type": "CONNECT", "outcome": "aborted"}),
    )
}

/// It is accepted all the same, and has ended by then.
pub(super) fn broken_off() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let listener = TcpListener::bind(LOOPBACK)?;
    let to = listener.local_addr()?;
    let mut client = TcpStream::connect(to)?;
    let from = client.local_addr()?;
    client.write_all(b"question")?;
    set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    let (server, _) = listener.accept()?;
    drop(server);
    let events = about(&mut agent, to.port(), 4)?;
    for event in &events {
        has(event, &ends("TCP", from, to)?)?;
    }
    one(&events, "ACCEPT", "inbound")?;
    let told = |direction, sent, received| {
        has(
            one(&events, "CLOSE", direction)?,
            &json!({"bytes_sent": sent, "bytes_received": received}),
        )
    };
    told("outbound", 8, 0)?;
    told("inbound", 0, 8)
}
