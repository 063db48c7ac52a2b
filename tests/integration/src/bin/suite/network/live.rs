//! On, off, and with other filters, while the agent runs.

use std::fs;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::process::until;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::json;

use super::{LOOPBACK, READY, SOON, about, change, config, converse, has, one};
use crate::observe::{get, serving};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::on_and_off_and_other_filters", on_and_off)
        .test("network::metrics", metrics)
}

/// Whether a monitor's programs are attached, to whomever they belong.
fn is_attached() -> Result<bool> {
    let has = |list: &str, function: &str| -> Result<bool> {
        Ok(fs::read_to_string(format!("/sys/kernel/debug/{list}"))?.contains(function))
    };
    let is_probed = has("kprobes/list", "udp_destroy_sock")?;
    let is_entered = has("tracing/enabled_functions", "security_sock_graft")?;
    ensure!(is_probed == is_entered, "it is attached by halves");
    Ok(is_probed)
}

fn on_and_off() -> Result<()> {
    let folder = Scratch::new()?;
    let off = json!({"enabled": false});
    let path = folder.file("config.yaml", config(&off).to_string())?;
    let mut agent = Agent::start_with(Agent::command(&[]), &path)?.readied()?;
    let (_, before) = converse(LOOPBACK)?;
    ensure!(!is_attached()?, "it is off, and attached");

    change(&mut agent, &path, &json!({}))?;
    ensure!(is_attached()?);
    let (_, all) = converse(LOOPBACK)?;
    about(&mut agent, all.port(), 4)?;
    about(&mut agent, before.port(), 0)?;

    change(&mut agent, &path, &json!({"direction": "inbound"}))?;
    let (_, inbound) = converse(LOOPBACK)?;
    let events = about(&mut agent, inbound.port(), 2)?;
    one(&events, "ACCEPT", "inbound")?;
    one(&events, "CLOSE", "inbound")?;

    change(&mut agent, &path, &json!({"ports": ["20001-20002"]}))?;
    let (_, wanted) = converse("127.0.0.1:20002")?;
    let (_, other) = converse("127.0.0.1:20003")?;
    about(&mut agent, wanted.port(), 4)?;
    about(&mut agent, other.port(), 0)?;

    // (the client's own address is 127.0.0.1 either way, so the server's side is not told of)
    change(
        &mut agent,
        &path,
        &json!({"cidrs": ["127.0.0.9", "::1/128"]}),
    )?;
    let (_, wanted) = converse("127.0.0.9:0")?;
    let (_, other) = converse("127.0.0.8:0")?;
    let (_, six) = converse("[::1]:0")?;
    let events = about(&mut agent, wanted.port(), 2)?;
    has(
        one(&events, "CONNECT", "outbound")?,
        &json!({"dst_ip": "127.0.0.9"}),
    )?;
    about(&mut agent, other.port(), 0)?;
    about(&mut agent, six.port(), 4)?;

    change(&mut agent, &path, &json!({"protocols": ["udp"]}))?;
    let (_, tcp) = converse(LOOPBACK)?;
    about(&mut agent, tcp.port(), 0)?;

    change(&mut agent, &path, &off)?;
    ensure!(!is_attached()?, "it is off again, and attached");
    let (_, after) = converse(LOOPBACK)?;
    about(&mut agent, after.port(), 0)?;
    Ok(())
}

fn metrics() -> Result<()> {
    let config = serving().monitoring("network", json!({"enabled": true}));
    let mut agent = Agent::run(&config)?;
    agent.wait_for_log("the network monitor is on", READY)?;
    until("it is ready", SOON, || {
        get("/ready").is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
    })?;
    let (_, to) = converse(LOOPBACK)?;
    about(&mut agent, to.port(), 4)?;
    let series = [
        format!(
            "kernelseal_network_destination_connections_total{{destination=\"{to}\",outcome=\"established\",protocol=\"TCP\"}} 1"
        ),
        format!(
            "kernelseal_network_destination_sent_bytes_total{{destination=\"{to}\",protocol=\"TCP\"}} 8"
        ),
        format!(
            "kernelseal_network_destination_received_bytes_total{{destination=\"{to}\",protocol=\"TCP\"}} 6"
        ),
        "kernelseal_events_dropped_total{lost_in=\"network\"} 0".to_owned(),
    ];
    let (_, text) = get("/metrics")?;
    for wanted in series {
        ensure!(
            text.lines().any(|line| line == wanted),
            "{wanted} is not in\n{text}"
        );
    }
    ensure!(text.contains("kernelseal_network_connections_total{direction=\"inbound\""));
    Ok(())
}
