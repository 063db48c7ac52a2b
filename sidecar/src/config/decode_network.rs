//! From the tree to the model: `monitoring.network`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    decode::choice,
    fields::{Fields, Report, quoted},
    keys,
    network::{Direction, Network, PortRange, Protocols},
    yaml::{Node, Scalar},
};

/// Networks that may be listed.
const MAX_CIDRS: usize = sidecar_common::network::MAX_CIDRS;

pub(super) fn network(report: &mut Report, node: &Node) -> Option<Network> {
    let fields = Fields::open(report, node, &keys::NETWORK)?;
    let enabled = fields
        .get("enabled")
        .map_or(Some(false), |node| report.boolean(node, "enabled"));
    let protocols = fields
        .get("protocols")
        .map_or(Some(Protocols::default()), |node| protocols(report, node));
    let directions = [
        ("both", Direction::Both),
        ("outbound", Direction::Outbound),
        ("inbound", Direction::Inbound),
    ];
    let direction = choice(report, &fields, "direction", &directions);
    let ports = list(report, &fields, "ports", port);
    let cidrs = list(report, &fields, "cidrs", cidr);
    if let (Some(cidrs), Some(node)) = (&cidrs, fields.get("cidrs"))
        && cidrs.len() > MAX_CIDRS
    {
        report.error(
            &node.mark,
            format!("more than {MAX_CIDRS} networks"),
            "name larger networks that have these in them",
        );
    }
    let containers = list(report, &fields, "containers", |report, node, what| {
        report.text(node, what).map(str::to_owned)
    });
    Some(Network {
        enabled: enabled?,
        protocols: protocols?,
        direction: direction?,
        ports: ports?,
        cidrs: cidrs?,
        containers: containers?,
    })
}

/// The items of a list that is not given, or not empty.
pub(super) fn list<T>(
    report: &mut Report,
    fields: &Fields,
    key: &'static str,
    item: impl Fn(&mut Report, &Node, &str) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(node) = fields.get(key) else {
        return Some(Vec::new());
    };
    let items = not_empty(report, node, key)?;
    let read: Vec<T> = items
        .iter()
        .filter_map(|node| item(report, node, key))
        .collect();
    (read.len() == items.len()).then_some(read)
}

/// An empty filter would let nothing through, and look as if it let everything.
fn not_empty<'n>(report: &mut Report, node: &'n Node, key: &str) -> Option<&'n [Node]> {
    let items = report.list(node, key)?;
    if items.is_empty() {
        let hint = "name at least one, or remove the key";
        report.error(&node.mark, format!("{key} is empty"), hint);
        return None;
    }
    Some(items)
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
    Unix,
}

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("unix", Protocol::Unix),
];

fn protocols(report: &mut Report, node: &Node) -> Option<Protocols> {
    let mut protocols = Protocols {
        tcp: false,
        udp: false,
        unix: false,
    };
    for item in not_empty(report, node, "protocols")? {
        let wanted = match report.choice(item, "protocols", &PROTOCOLS)? {
            Protocol::Tcp => &mut protocols.tcp,
            Protocol::Udp => &mut protocols.udp,
            Protocol::Unix => &mut protocols.unix,
        };
        if std::mem::replace(wanted, true) {
            let message = format!("protocols lists {} twice", quoted(item.raw()));
            report.error(&item.mark, message, "");
            return None;
        }
    }
    Some(protocols)
}

fn port(report: &mut Report, node: &Node, what: &str) -> Option<PortRange> {
    const HINT: &str = "write a port from 1 to 65535, or a range in quotes: \"8000-8999\"";
    let range = match node.scalar() {
        Some(Scalar::Number(text)) => number(text).map(|port| port..=port),
        Some(Scalar::Text(text)) => text
            .split_once('-')
            .and_then(|(first, last)| Some(number(first)?..=number(last)?)),
        _ => None,
    };
    match range {
        Some(range) if !range.is_empty() => Some(PortRange(range)),
        Some(_) => {
            report.error(&node.mark, format!("{what}: the range is empty"), HINT);
            None
        }
        None => {
            let message = format!("{what} cannot have {}", quoted(node.raw()));
            report.error(&node.mark, message, HINT);
            None
        }
    }
}

/// A port, in decimal and without zeros before it.
fn number(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

/// A network, or an address that is one by itself.
fn cidr(report: &mut Report, node: &Node, what: &str) -> Option<IpNet> {
    let text = report.text(node, what)?;
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    if let Ok(network) = network {
        // (bits behind the prefix say nothing)
        return Some(network.trunc());
    }
    let message = format!("{what}: {} is not a network", quoted(text));
    let hint = "write an address and its prefix: 10.0.0.0/8, \"fd00::/8\"";
    report.error(&node.mark, message, hint);
    None
}
