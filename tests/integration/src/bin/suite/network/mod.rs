//! The network monitor: who connects to whom, record by record.

mod datagrams;
mod failures;
mod live;
mod load;
mod places;
mod programs;
mod unix;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::{self, until};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, socket};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// How long it may take to be on.
const READY: Duration = Duration::from_mins(1);
/// In which what must not come would have come.
const SETTLE: Duration = Duration::from_millis(1500);
const LOOPBACK: &str = "127.0.0.1:0";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry
        .test(
            "network::a_connection_from_beginning_to_end",
            from_beginning_to_end,
        )
        .test("network::ipv6_and_ipv4_over_ipv6", ipv6)
        .test("network::both_ends_begin_at_once", at_once)
        .test("network::a_process_that_just_ends", just_ends);
    [
        failures::register,
        datagrams::register,
        programs::register,
        places::register,
        live::register,
        load::register,
        unix::register,
    ]
    .into_iter()
    .fold(registry, |registry, register| register(registry))
}

/// The usual configuration, with the monitor on and these keys besides.
fn config(keys: &Value) -> Config {
    let mut network = json!({"enabled": true});
    if let (Some(network), Some(keys)) = (network.as_object_mut(), keys.as_object()) {
        network.extend(keys.clone());
    }
    Config::token_for("probe-static").monitoring("network", network)
}

/// An agent on this machine.
fn watching(keys: &Value) -> Result<Agent> {
    let mut agent = Agent::run(&config(keys))?;
    agent.wait_for_log("the network monitor is on", READY)?;
    Ok(agent)
}

/// Our own network namespace's number.
fn netns() -> Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// Another configuration for an agent, with the monitor on and these keys besides; it is in force then.
fn change(agent: &mut Agent, path: &Path, keys: &Value) -> Result<()> {
    let in_force = |agent: &mut Agent| {
        let lines = agent.log().iter();
        lines
            .filter(|line| line.contains("configuration reloaded"))
            .count()
    };
    let before = in_force(agent);
    fs::write(path, config(keys).to_string())?;
    agent.signal(Signal::SIGHUP)?;
    until("it is in force", READY, || in_force(agent) > before)
}

/// The events of the monitor about a port, as they come: so many, and no more.
fn about(agent: &mut Agent, port: u16, count: usize) -> Result<Vec<Value>> {
    let is_about = |event: &Value| event["src_port"] == port || event["dst_port"] == port;
    about_what(agent, &format!("port {port}"), count, is_about)
}

/// The same about something else.
fn about_what(
    agent: &mut Agent,
    what: &str,
    count: usize,
    is_about: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>> {
    let is_about = |event: &Value| {
        let kinds = ["CONNECT", "ACCEPT", "CLOSE"];
        kinds.iter().any(|kind| event["type"] == *kind) && is_about(event)
    };
    let begin = Instant::now();
    loop {
        let settle = Duration::from_millis(100);
        let found: Vec<Value> = agent
            .events(settle)?
            .iter()
            .filter(|event| is_about(event))
            .cloned()
            .collect();
        if found.len() >= count || begin.elapsed() > SOON {
            let more = agent.events(SETTLE)?.iter().filter(|e| is_about(e)).count();
            ensure!(
                found.len() == count && more == count,
                "{count} events were expected about {what}, not these {more}: {found:#?}"
            );
            return Ok(found);
        }
    }
}

/// The one of a type, and of one side of the connection.
fn one<'e>(events: &'e [Value], kind: &str, direction: &str) -> Result<&'e Value> {
    let mut found = events
        .iter()
        .filter(|event| event["type"] == kind && event["direction"] == direction);
    let one = found
        .next()
        .with_context(|| format!("no {kind} {direction} in {events:#?}"))?;
    ensure!(found.next().is_none(), "two {kind} in {events:#?}");
    Ok(one)
}

/// That an event has these fields, letter for letter.
fn has(event: &Value, fields: &Value) -> Result<()> {
    for (name, value) in fields.as_object().context("no fields")? {
        ensure!(event[name] == *value, "{name} is not {value}: {event}");
    }
    Ok(())
}

/// From where to where, as events tell it.
fn ends(protocol: &str, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    let text = |ip: IpAddr| ip.to_canonical().to_string();
    Ok(json!({
        "protocol": protocol, "src_ip": text(from.ip()), "src_port": from.port(),
        "dst_ip": text(to.ip()), "dst_port": to.port(), "netns": netns()?,
    }))
}

/// Connects to ourselves, sends so much each way, and closes: the client first.
fn converse(address: &str) -> Result<(SocketAddr, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let to = listener.local_addr()?;
    let mut client = TcpStream::connect(to)?;
    let (mut server, from) = listener.accept()?;
    client.write_all(b"question")?;
    server.read_exact(&mut [0; 8])?;
    server.write_all(b"answer")?;
    client.read_exact(&mut [0; 6])?;
    drop(client);
    ensure!(server.read(&mut [0; 1])? == 0);
    Ok((from, to))
}

/// That they are those of one conversation by [`converse`], on both sides of it.
fn are_of_one(events: &[Value], from: SocketAddr, to: SocketAddr) -> Result<()> {
    for event in events {
        has(event, &ends("TCP", from, to)?)?;
    }
    one(events, "CONNECT", "outbound")?;
    one(events, "ACCEPT", "inbound")?;
    for (direction, sent, received) in [("outbound", 8, 6), ("inbound", 6, 8)] {
        has(
            one(events, "CLOSE", direction)?,
            &json!({"bytes_sent": sent, "bytes_received": received}),
        )?;
    }
    Ok(())
}

fn ipv6() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let (from, to) = converse("[::1]:0")?;
    are_of_one(&about(&mut agent, to.port(), 4)?, from, to)?;
    // a socket of IPv6 that IPv4 comes to: shown as what it is
    let (from, to) = converse("[::ffff:127.0.0.1]:0")?;
    let events = about(&mut agent, to.port(), 4)?;
    are_of_one(&events, from, to)?;
    has(
        &events[0],
        &json!({"src_ip": "127.0.0.1", "dst_ip": "127.0.0.1"}),
    )
}

/// A socket that connects to itself: its SYN meets its own, and nobody accepts.
fn at_once() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let both = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&both, &LOOPBACK.parse::<SocketAddr>()?)?;
    let address = SocketAddr::try_from(getsockname(&both)?)?;
    connect(&both, &address)?;
    drop(both);
    let events = about(&mut agent, address.port(), 2)?;
    for event in &events {
        has(event, &ends("TCP", address, address)?)?;
    }
    let made = json!({"outcome": "established"});
    has(one(&events, "CONNECT", "outbound")?, &made)?;
    one(&events, "CLOSE", "outbound").map(drop)
}

/// Its connections are its own to the end, whoever runs when they are closed.
fn just_ends() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let listener = TcpListener::bind(LOOPBACK)?;
    let to = listener.local_addr()?;
    let script = format!(
        "import os, socket; s = socket.create_connection(('127.0.0.1', {})); s.sendall(b'bye'); os._exit(0)",
        to.port()
    );
    let mut python = process::spawn(Command::new("python3").args(["-c", &script]))?;
    let (mut server, from) = listener.accept()?;
    let mut said = Vec::new();
    server.read_to_end(&mut said)?;
    ensure!(said == b"bye");
    let pid = python.pid();
    python.wait(SOON)?;
    drop(server);
    let events = about(&mut agent, to.port(), 4)?;
    for event in &events {
        has(event, &ends("TCP", from, to)?)?;
    }
    let outbound = json!({"pid": pid, "process": "python3"});
    has(one(&events, "CONNECT", "outbound")?, &outbound)?;
    let closed = one(&events, "CLOSE", "outbound")?;
    has(closed, &outbound)?;
    has(closed, &json!({"bytes_sent": 3, "bytes_received": 0}))?;
    has(
        one(&events, "CLOSE", "inbound")?,
        &json!({"bytes_sent": 0, "bytes_received": 3, "pid": std::process::id()}),
    )
}

fn from_beginning_to_end() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let (from, to) = converse(LOOPBACK)?;
    let events = about(&mut agent, to.port(), 4)?;
    let who = json!({"pid": std::process::id(), "process": "suite"});
    for event in &events {
        has(event, &ends("TCP", from, to)?)?;
        has(event, &who)?;
        ensure!(event["timestamp"].is_string() && event["node"].is_string());
    }
    has(
        one(&events, "CONNECT", "outbound")?,
        &json!({"outcome": "established"}),
    )?;
    one(&events, "ACCEPT", "inbound")?;
    for (direction, sent, received) in [("outbound", 8, 6), ("inbound", 6, 8)] {
        let closed = one(&events, "CLOSE", direction)?;
        has(
            closed,
            &json!({"bytes_sent": sent, "bytes_received": received, "retransmits": 0}),
        )?;
        ensure!(closed["duration_ns"].as_u64().is_some_and(|ns| ns > 0));
    }
    Ok(())
}
