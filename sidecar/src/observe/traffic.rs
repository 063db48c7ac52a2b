//! What is counted of connections, by where they go. Whoever connects to many places must not make us remember them
//! all: beyond so many they are counted together.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{IntCounterVec, Opts, Registry};

use super::labels::{Outcome, Protocol};

/// Destinations that have series of their own.
const MAX_DESTINATIONS: usize = 200;
/// What the others are counted as.
const OTHER: &str = "other";

/// See the module. Cheap to clone: clones count together.
#[derive(Clone)]
pub(crate) struct Traffic {
    connections: IntCounterVec,
    destination_connections: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    retransmits: IntCounterVec,
    destinations: Arc<Mutex<HashSet<String>>>,
}

impl Traffic {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            connections: by(
                "kernelseal_network_connections_total",
                "Connections that watched programs began, tried to begin, or accepted.",
                &["protocol", "direction", "outcome"],
            )?,
            destination_connections: by(
                "kernelseal_network_destination_connections_total",
                "Connections that watched programs began or tried to begin, by where to.",
                &["destination", "protocol", "outcome"],
            )?,
            sent: by(
                "kernelseal_network_destination_sent_bytes_total",
                "Payload sent over connections that watched programs began and that have ended.",
                &["destination", "protocol"],
            )?,
            received: by(
                "kernelseal_network_destination_received_bytes_total",
                "Payload received over connections that watched programs began and that have ended.",
                &["destination", "protocol"],
            )?,
            retransmits: by(
                "kernelseal_network_retransmits_total",
                "TCP segments sent again over connections that have ended.",
                &["direction"],
            )?,
            destinations: Arc::default(),
        })
    }

    /// Connections of these protocols are watched from here on.
    pub(crate) fn begin_at_zero(&self, protocols: impl IntoIterator<Item = Protocol>) {
        for protocol in protocols {
            let can_be = |outcome: &&Outcome| match **outcome {
                Outcome::Established => protocol != Protocol::Udp,
                Outcome::Sent => protocol == Protocol::Udp,
                _ => true,
            };
            for outcome in Outcome::ALL.iter().filter(can_be) {
                let labels = [protocol.name(), "outbound", outcome.name()];
                self.connections.with_label_values(&labels);
            }
            let labels = [protocol.name(), "inbound", Outcome::Established.name()];
            self.connections.with_label_values(&labels);
            if protocol == Protocol::Tcp {
                for direction in ["outbound", "inbound"] {
                    self.retransmits.with_label_values(&[direction]);
                }
            }
        }
    }

    /// A connection was made, or not; to where, if a watched program began it.
    pub(crate) fn begun(
        &self,
        protocol: Protocol,
        direction: &str,
        outcome: Outcome,
        destination: Option<&str>,
    ) {
        self.connections
            .with_label_values(&[protocol.name(), direction, outcome.name()])
            .inc();
        if let Some(destination) = destination {
            let destination = self.label(destination);
            self.destination_connections
                .with_label_values(&[destination, protocol.name(), outcome.name()])
                .inc();
        }
    }

    /// One ended.
    pub(crate) fn ended(
        &self,
        protocol: Protocol,
        direction: &str,
        destination: Option<&str>,
        bytes: Option<(u64, u64)>,
        retransmits: u32,
    ) {
        if protocol == Protocol::Tcp {
            self.retransmits
                .with_label_values(&[direction])
                .inc_by(retransmits.into());
        }
        if let (Some(destination), Some((sent, received))) = (destination, bytes) {
            let labels = [self.label(destination), protocol.name()];
            self.sent.with_label_values(&labels).inc_by(sent);
            self.received.with_label_values(&labels).inc_by(received);
        }
    }

    /// A destination's series: its own, or that of all the others.
    fn label<'d>(&self, destination: &'d str) -> &'d str {
        let known = self.destinations.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if known.contains(destination) {
            return destination;
        }
        if known.len() >= MAX_DESTINATIONS {
            return OTHER;
        }
        known.insert(destination.to_owned());
        destination
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, TextEncoder};

    use super::*;

    #[test]
    fn connections_before_one_was_made_are_zero_for_what_can_become_of_it() {
        let registry = Registry::new();
        let traffic = Traffic::new(&registry).unwrap();
        traffic.begin_at_zero([Protocol::Udp]);
        let series: Vec<String> = registry.gather()[0]
            .get_metric()
            .iter()
            .map(|metric| {
                let labels = metric.get_label().iter();
                labels
                    .map(prometheus::proto::LabelPair::value)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert!(
            series.contains(&"outbound sent UDP".to_owned()),
            "{series:?}"
        );
        assert!(
            series.contains(&"inbound established UDP".to_owned()),
            "{series:?}"
        );
        assert!(
            !series.contains(&"outbound established UDP".to_owned()),
            "{series:?}"
        );
        assert!(series.iter().all(|labels| !labels.contains("TCP")));
    }

    #[test]
    fn series_are_bounded() {
        let registry = Registry::new();
        let traffic = Traffic::new(&registry).unwrap();
        for host in 0..1_000 {
            let destination = format!("10.0.0.1:{host}");
            traffic.begun(
                Protocol::Tcp,
                "outbound",
                Outcome::Established,
                Some(&destination),
            );
            traffic.ended(
                Protocol::Tcp,
                "outbound",
                Some(&destination),
                Some((1, 2)),
                0,
            );
        }
        traffic.begun(Protocol::Tcp, "inbound", Outcome::Established, None);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .unwrap();
        let text = String::from_utf8(text).unwrap();
        let series = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(
            series("kernelseal_network_destination_sent_bytes_total{"),
            201
        );
        assert_eq!(
            series("kernelseal_network_destination_connections_total{"),
            201
        );
        let others = "kernelseal_network_destination_received_bytes_total{destination=\"other\",protocol=\"TCP\"} 1600";
        assert!(text.contains(others), "{text}");
        assert!(text.contains("kernelseal_network_connections_total{direction=\"inbound\",outcome=\"established\",protocol=\"TCP\"} 1\n"));
    }
}
