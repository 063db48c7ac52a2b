//! The network monitor: who connects to whom, record by record.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// How long it may take to be on.
const READY: Duration = Duration::from_mins(1);
/// In which what must not come would have come.
const SETTLE: Duration = Duration::from_millis(1500);
const LOOPBACK: &str = "127.0.0.1:0";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "network::a_connection_from_beginning_to_end",
            from_beginning_to_end,
        )
        .test("network::ipv6_and_ipv4_over_ipv6", ipv6)
        .test("network::nobody_listens", nobody_listens)
        .slow_test(
            "network::nobody_answers",
            Duration::from_mins(3),
            nobody_answers,
        )
        .test("network::an_attempt_is_given_up", given_up)
        .test("network::a_process_that_just_ends", just_ends)
        .test("network::a_datagram_and_its_answer", datagrams)
        .slow_test(
            "network::a_flow_that_is_idle",
            Duration::from_mins(3),
            idle_flow,
        )
        .test("network::names_from_name_servers", names)
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

/// The events of the monitor about a port, as they come: so many, and no more.
fn about(agent: &mut Agent, port: u16, count: usize) -> Result<Vec<Value>> {
    let is_about = |event: &Value| {
        ["CONNECT", "ACCEPT", "CLOSE"]
            .iter()
            .any(|kind| event["type"] == *kind)
            && (event["src_port"] == port || event["dst_port"] == port)
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
                "{count} events were expected about port {port}, not these {more}: {found:#?}"
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
        has(event, &ends("tcp", from, to)?)?;
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
            &json!({"type": "CONNECT", "outcome": "refused", "direction": "outbound", "protocol": "tcp",
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
        &json!({"type": "CONNECT", "outcome": "timed_out", "protocol": "tcp", "src_ip": "198.51.100.1",
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
        has(event, &ends("tcp", from, to)?)?;
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

/// A datagram each way, between sockets that are not connected, and their ends.
fn datagrams() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    for address in ["127.0.0.1", "::1"] {
        let ip: IpAddr = address.parse()?;
        let server = UdpSocket::bind((ip, 0))?;
        let to = server.local_addr()?;
        // (bound to no address: which one it has, only the datagram tells)
        let any: IpAddr = if ip.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let client = UdpSocket::bind((any, 0))?;
        let from = SocketAddr::new(ip, client.local_addr()?.port());
        client.send_to(b"question", to)?;
        let (_, asker) = server.recv_from(&mut [0; 16])?;
        server.send_to(b"answer", asker)?;
        client.recv_from(&mut [0; 16])?;
        client.send_to(b"thanks", to)?;
        server.recv_from(&mut [0; 16])?;
        drop((client, server));
        let events = about(&mut agent, to.port(), 4)?;
        for event in &events {
            has(event, &ends("udp", from, to)?)?;
            has(
                event,
                &json!({"pid": std::process::id(), "process": "suite"}),
            )?;
        }
        has(
            one(&events, "CONNECT", "outbound")?,
            &json!({"outcome": "sent"}),
        )?;
        one(&events, "ACCEPT", "inbound")?;
        for (direction, sent, received) in [("outbound", 14, 6), ("inbound", 6, 14)] {
            let closed = one(&events, "CLOSE", direction)?;
            has(
                closed,
                &json!({"bytes_sent": sent, "bytes_received": received}),
            )?;
            ensure!(closed["duration_ns"].as_u64().is_some_and(|ns| ns > 0));
        }
    }
    Ok(())
}

/// Nothing passes for half a minute, while its socket stays.
fn idle_flow() -> Result<()> {
    let mut agent = watching(&json!({"protocols": ["udp"]}))?;
    let server = UdpSocket::bind(LOOPBACK)?;
    let to = server.local_addr()?;
    let client = UdpSocket::bind(LOOPBACK)?;
    client.send_to(b"once", to)?;
    let port = to.port();
    agent.wait_for(
        |event| event["type"] == "CLOSE" && event["dst_port"] == port,
        Duration::from_mins(1),
    )?;
    let events = about(&mut agent, port, 2)?;
    has(&events[1], &json!({"bytes_sent": 4, "bytes_received": 0}))?;
    // one that goes on begins anew
    client.send_to(b"again", to)?;
    about(&mut agent, port, 3)?;
    Ok(())
}

/// A name server's answer gives the address that is connected to its name.
fn names() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let server = UdpSocket::bind(("127.0.0.53", 53))?;
    let client = UdpSocket::bind(LOOPBACK)?;
    client.send_to(b"?", server.local_addr()?)?;
    let (_, asker) = server.recv_from(&mut [0; 16])?;
    // "db.shop.svc" is 127.0.0.99
    let mut answer = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    answer.extend_from_slice(b"\x02db\x04shop\x03svc\0\0\x01\0\x01");
    answer.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x63");
    server.send_to(&answer, asker)?;
    client.recv_from(&mut [0; 512])?;
    let (_, to) = converse("127.0.0.99:0")?;
    for event in about(&mut agent, to.port(), 4)? {
        has(
            &event,
            &json!({"dst_name": "db.shop.svc", "dst_ip": "127.0.0.99"}),
        )?;
    }
    let (_, other) = converse(LOOPBACK)?;
    for event in about(&mut agent, other.port(), 4)? {
        ensure!(event.get("dst_name").is_none(), "{event}");
    }
    Ok(())
}

fn from_beginning_to_end() -> Result<()> {
    let mut agent = watching(&json!({}))?;
    let (from, to) = converse(LOOPBACK)?;
    let events = about(&mut agent, to.port(), 4)?;
    let who = json!({"pid": std::process::id(), "process": "suite"});
    for event in &events {
        has(event, &ends("tcp", from, to)?)?;
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
