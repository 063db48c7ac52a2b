//! UDP flows that go on. They end when their socket does, or when nothing passed for a while.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytemuck::Zeroable as _;
use sidecar_common::{
    event::Header,
    network::{Flow, RecordKind, UdpFlow, UdpKey},
};

use crate::{kernel::Network, util::Clock};

/// After so long without a datagram a flow has ended.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks at all of them.
const LOOK: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct UdpFlows {
    known: BTreeSet<UdpKey>,
    look_at: Instant,
}

impl UdpFlows {
    pub(super) fn new() -> Self {
        Self {
            known: BTreeSet::new(),
            look_at: Instant::now() + LOOK,
        }
    }

    /// One has begun.
    pub(super) fn begin(&mut self, key: UdpKey) {
        self.known.insert(key);
    }

    /// Beginnings may have been lost: what is followed is known from here on.
    pub(super) fn adopt(&mut self, kernel: &Network) {
        self.known.extend(kernel.udp_flows());
    }

    /// A socket is gone, and its flows with it.
    pub(super) fn end_socket(&mut self, socket: u64, kernel: &mut Network) -> Vec<Flow> {
        let first = UdpKey {
            socket,
            ..UdpKey::zeroed()
        };
        let ended: Vec<UdpKey> = self
            .known
            .range(first..)
            .take_while(|key| key.socket == socket)
            .copied()
            .collect();
        self.end(&ended, kernel)
    }

    /// Those that are idle, where it is time to look.
    pub(super) fn end_idle(&mut self, kernel: &mut Network) -> Vec<Flow> {
        let now = Instant::now();
        if now < self.look_at {
            return Vec::new();
        }
        self.look_at = now + LOOK;
        let now_ns = Clock::monotonic_ns();
        let idle: Vec<UdpKey> = self
            .known
            .iter()
            .filter(|key| {
                let flow = kernel.udp_flow(key);
                flow.is_none_or(|flow| is_idle(&flow, now_ns))
            })
            .copied()
            .collect();
        self.end(&idle, kernel)
    }

    fn end(&mut self, keys: &[UdpKey], kernel: &mut Network) -> Vec<Flow> {
        keys.iter()
            .filter_map(|key| {
                self.known.remove(key);
                let flow = kernel.udp_flow(key)?;
                kernel.forget_udp_flow(key);
                Some(closed(key.socket, &flow))
            })
            .collect()
    }
}

fn is_idle(flow: &UdpFlow, now_ns: u64) -> bool {
    Duration::from_nanos(now_ns.saturating_sub(flow.last_ns)) >= IDLE
}

/// The record of an end, of the time when its last datagram passed.
fn closed(socket: u64, flow: &UdpFlow) -> Flow {
    Flow {
        header: Header {
            kind: RecordKind::Close as u32,
            tgid: 0,
            time_ns: flow.last_ns,
        },
        begun: flow.begun,
        socket,
        sent: flow.sent,
        received: flow.received,
        error: 0,
        retransmits: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_quiet_for_long_is_idle() {
        let flow = UdpFlow {
            last_ns: 1_000,
            ..UdpFlow::zeroed()
        };
        let limit = u64::try_from(IDLE.as_nanos()).unwrap();
        assert!(!is_idle(&flow, 1_000 + limit - 1));
        assert!(is_idle(&flow, 1_000 + limit));
        // a datagram that passed since we read the clock
        assert!(!is_idle(&flow, 0));
    }

    #[test]
    fn sockets_are_told_apart() {
        let key = |socket, remote_port| UdpKey {
            socket,
            remote: [u64::MAX; 2],
            local_port: u16::MAX,
            remote_port,
            reserved: 0,
        };
        let mut flows = UdpFlows::new();
        for known in [key(1, 9), key(2, 7), key(2, 8), key(3, 0)] {
            flows.begin(known);
        }
        let first = UdpKey {
            socket: 2,
            ..UdpKey::zeroed()
        };
        let found: Vec<u16> = flows
            .known
            .range(first..)
            .take_while(|key| key.socket == 2)
            .map(|key| key.remote_port)
            .collect();
        assert_eq!(found, [7, 8]);
    }
}
