//! UDP: flows, and the names that are learnt from name servers' answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::registry::Registry;
use serde_json::json;

use super::{LOOPBACK, about, converse, ends, has, one, watching};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::a_datagram_and_its_answer", datagrams)
        .test("network::a_flow_that_is_idle", idle_flow)
        .test("network::an_answer_is_no_beginning", answers)
        .test("network::names_from_name_servers", names)
}

/// Where only what watched programs begin is told of, what they answer is not.
fn answers() -> Result<()> {
    let mut agent = watching(&json!({"direction": "outbound"}))?;
    let server = UdpSocket::bind(LOOPBACK)?;
    let client = UdpSocket::bind(LOOPBACK)?;
    client.send_to(b"question", server.local_addr()?)?;
    let (_, asker) = server.recv_from(&mut [0; 16])?;
    server.send_to(b"answer", asker)?;
    client.recv_from(&mut [0; 16])?;
    let port = server.local_addr()?.port();
    drop((client, server));
    let events = about(&mut agent, port, 2)?;
    has(
        one(&events, "CONNECT", "outbound")?,
        &json!({"dst_port": port}),
    )?;
    one(&events, "CLOSE", "outbound")?;
    Ok(())
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
            has(event, &ends("UDP", from, to)?)?;
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
