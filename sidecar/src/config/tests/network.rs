//! `monitoring.network`: what is taken, and what is refused.

use super::{
    super::{Direction, Network},
    accept, refuse, says,
};

fn network(keys: &str) -> Network {
    let text = format!("version: v1\nmonitoring:\n  network: {{{keys}}}\n");
    accept(&text).monitoring.network
}

#[track_caller]
fn refuses(keys: &str, expected: &str) {
    let text = format!("version: v1\nmonitoring:\n  network: {{{keys}}}\n");
    says(&text, expected);
}

#[test]
fn it_is_off_until_it_is_asked_for() {
    assert_eq!(
        accept("version: v1\n").monitoring.network,
        Network::default()
    );
    assert_eq!(network(""), Network::default());
    assert!(!network("ports: [443]").enabled);
    let on = network("enabled: true");
    assert!(on.enabled && on.protocols.tcp && on.protocols.udp && !on.protocols.unix);
    assert_eq!(on.direction, Direction::Both);
    assert!(on.ports.is_empty() && on.cidrs.is_empty() && on.containers.is_empty());
}

#[test]
fn filters_arrive() {
    let on = network(
        "enabled: true, protocols: [udp], direction: inbound, ports: [53, \"8000-8999\"], \
         cidrs: [10.1.2.3/8, \"fd00::/8\", 192.0.2.7], containers: [app]",
    );
    assert!(!on.protocols.tcp && on.protocols.udp && !on.protocols.unix);
    assert!(network("protocols: [unix]").protocols.unix);
    assert_eq!(on.direction, Direction::Inbound);
    let ports: Vec<_> = on.ports.iter().map(|range| range.0.clone()).collect();
    assert_eq!(ports, [53..=53, 8000..=8999]);
    let cidrs: Vec<_> = on.cidrs.iter().map(ToString::to_string).collect();
    // bits behind the prefix say nothing; an address is a network by itself
    assert_eq!(cidrs, ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]);
    assert_eq!(on.containers, ["app"]);
}

#[test]
fn what_is_no_filter_is_refused() {
    refuses("enabled: yes", "3:22: enabled must be a boolean, not text");
    refuses("ports: []", "3:20: ports is empty");
    refuses("ports: 443", "3:20: ports must be a list, not a number");
    for port in [
        "0",
        "65536",
        "-1",
        "1.5",
        "x",
        "\"9-\"",
        "\"443\"",
        "\"0443-444\"",
    ] {
        let text = format!("version: v1\nmonitoring: {{network: {{ports: [{port}]}}}}\n");
        assert!(refuse(&text).contains("ports cannot have"), "{port}");
    }
    refuses("ports: [\"9-8\"]", "3:21: ports: the range is empty");
    refuses(
        "cidrs: [10.0.0.0/33]",
        "3:21: cidrs: \"10.0.0.0/33\" is not a network",
    );
    refuses(
        "cidrs: [example.com]",
        "3:21: cidrs: \"example.com\" is not a network",
    );
    refuses(
        "protocols: [tcp, tcp]",
        "3:30: protocols lists \"tcp\" twice",
    );
    refuses(
        "protocols: [tpc]",
        "3:25: protocols cannot be \"tpc\"; did you mean \"tcp\"?",
    );
    refuses("direction: out", "3:24: direction cannot be \"out\"");
    refuses(
        "containers: [1]",
        "3:26: containers must be text, not a number",
    );
    let many = vec!["10.0.0.1"; 1025].join(", ");
    refuses(&format!("cidrs: [{many}]"), "3:20: more than 1024 networks");
}
