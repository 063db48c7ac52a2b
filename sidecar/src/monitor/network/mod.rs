//! Who connects to whom: every connection of a watched program, from its beginning to its end.

mod names;
mod report;
mod udp;
mod unix;

use std::os::fd::{AsFd as _, BorrowedFd};

use sidecar_common::network::{RecordKind, UDP, WatchFlags};

use self::{names::Names, udp::UdpFlows, unix::UnixConnections};
use super::{context::MonitorContext, watch::Monitor};
use crate::{
    config::{self, Direction, PortRange},
    kernel::{self, Network, NetworkRecord, NetworkRequest, NetworkRing},
};

/// Records after which what was collected is handed over: whoever floods us must not make us collect without end.
const AT_ONCE: usize = 512;

/// What is told of, and what is not.
pub(super) struct Filter {
    watch: WatchFlags,
    ports: Vec<PortRange>,
    cidrs: Vec<ipnet::IpNet>,
    /// Names or ids; empty for all. The kernel side does not know them.
    containers: Vec<String>,
}

impl Filter {
    pub(super) fn of(config: &config::Network) -> Self {
        let watch = [
            (config.protocols.tcp, WatchFlags::TCP),
            (config.protocols.udp, WatchFlags::UDP),
            (config.protocols.unix, WatchFlags::UNIX),
            (config.direction != Direction::Inbound, WatchFlags::OUTBOUND),
            (config.direction != Direction::Outbound, WatchFlags::INBOUND),
        ];
        Self {
            watch: watch
                .into_iter()
                .filter_map(|(is_asked, flag)| is_asked.then_some(flag))
                .collect(),
            ports: config.ports.clone(),
            cidrs: config.cidrs.clone(),
            containers: config.containers.clone(),
        }
    }

    /// The part that the kernel side heeds.
    fn request(&self) -> NetworkRequest {
        NetworkRequest {
            watch: self.watch,
            ports: self.ports.iter().map(|range| range.0.clone()).collect(),
            cidrs: self.cidrs.clone(),
        }
    }
}

/// See the module.
pub(super) struct NetworkMonitor {
    kernel: Network,
    ring: NetworkRing,
    containers: Vec<String>,
    udp: UdpFlows,
    unix: UnixConnections,
    names: Names,
    /// What the kernel side has lost, as we know it.
    lost: u64,
}

impl NetworkMonitor {
    /// Loads and attaches.
    pub(super) fn load(filter: Filter) -> Result<Self, kernel::Error> {
        let (kernel, ring) = Network::load(&filter.request())?;
        Ok(Self {
            kernel,
            ring,
            containers: filter.containers,
            udp: UdpFlows::new(),
            unix: UnixConnections::new(),
            names: Names::default(),
            lost: 0,
        })
    }

    fn take(&mut self, record: NetworkRecord, context: &mut MonitorContext) {
        match record {
            NetworkRecord::Flow(flow) => {
                if flow.begun.protocol == UDP && flow.header.kind != RecordKind::Close as u32 {
                    self.udp.begin(flow.begun.ends.udp_key(flow.socket));
                }
                self.report(&flow, context);
            }
            NetworkRecord::Unix(unix) => {
                if self.report_unix(&unix, context) {
                    self.unix.begin(unix);
                }
            }
            NetworkRecord::Gone(gone) => {
                if let Some(unix) = self.unix.end(&gone) {
                    return self.report_unix_end(&unix, gone.header.time_ns, context);
                }
                for flow in self.udp.end_socket(gone.socket, &mut self.kernel) {
                    self.report(&flow, context);
                }
            }
            NetworkRecord::Answer(answer) => {
                let length = usize::try_from(answer.length).unwrap_or(usize::MAX);
                let bytes = answer.bytes.get(..length).unwrap_or(&answer.bytes);
                self.names.learn(answer.netns, bytes);
            }
            NetworkRecord::Place(place) => context.learn(&place),
            NetworkRecord::Unknown => {
                tracing::error!(
                    "unknown record in the network monitor's ring: its kernel side is of another version"
                );
            }
        }
    }
}

impl Monitor for NetworkMonitor {
    type Request = Filter;
    type State = ();
    const LOST_IN: &'static str = "network";

    fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    fn drain(&mut self, context: &mut MonitorContext) {
        let mut taken = 0;
        while let Some(record) = self.ring.next() {
            self.take(record, context);
            taken += 1;
            if taken % AT_ONCE == 0 {
                context.journal.flush();
            }
        }
    }

    fn tick(&mut self, context: &mut MonitorContext) {
        let lost = self.kernel.lost();
        if lost != self.lost {
            self.lost = lost;
            self.udp.adopt(&self.kernel);
            self.unix.doubt();
        }
        self.unix.keep(|socket| self.kernel.is_to_end(socket));
        for flow in self.udp.end_idle(&mut self.kernel) {
            self.report(&flow, context);
        }
    }

    fn state(&self) {}

    fn change(&mut self, filter: Filter) -> Result<(), kernel::Error> {
        self.kernel.change(&filter.request())?;
        if !filter.watch.contains(WatchFlags::UNIX) {
            self.unix.forget();
        }
        self.containers = filter.containers;
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.kernel.lost() + self.unix.refused()
    }
}
