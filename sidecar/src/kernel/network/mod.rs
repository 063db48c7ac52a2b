//! The network monitor's kernel side: loaded for one agent, attached, and gone when it is dropped.

mod records;
mod settings;
mod unix;

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData},
    programs::{BtfTracePoint, FEntry, KProbe},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sidecar_common::network::{LOST_COUNTERS, UdpFlow, UdpKey, WatchFlags};

pub(crate) use self::records::{NetworkRecord, NetworkRing};
pub(crate) use self::settings::NetworkRequest;
use self::{settings::Applied, unix::Unix};
use super::{
    Error,
    attach_ids::{self, Point},
    contract::network as contract,
    fields,
    load::program,
    maps, own_objects,
    parts::{array, hash, records, refused, trie, within},
    relocate::relocate,
};

/// The kernel side, as `build.rs` left it.
pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/network.bpf.o"));

/// The tracepoint of sockets' states, and its program.
pub(super) const STATES: &str = "inet_sock_set_state";
/// The function that accepted sockets come by, and the program at its beginning that has its arguments with their types: of
/// these a function has 38 at most (`BPF_MAX_TRAMP_LINKS`), and a node may have more agents.
pub(super) const ACCEPTED: &str = "security_sock_graft";
/// The program that stands in for it then, of which there may be any number.
const ACCEPTED_PROBE: &str = "security_sock_graft_probe";
/// The kernel functions at whose beginning we have a probe; a program has its function's name.
const PROBED: [&str; 5] = [
    "ip_send_skb",
    "ip6_send_skb",
    "skb_consume_udp",
    "udp_destroy_sock",
    "udpv6_destroy_sock",
];

/// The monitor's key below `monitoring`.
const MONITOR: &str = "network";

/// Every program that is loaded here.
#[cfg(test)]
pub(super) fn program_names() -> Vec<&'static str> {
    let mut names = PROBED.to_vec();
    names.extend([STATES, ACCEPTED, ACCEPTED_PROBE]);
    names.extend(unix::PROBES.map(|(name, _)| name));
    names
}

/// See the module.
pub(crate) struct Network {
    applied: Applied,
    udp_flows: HashMap<MapData, UdpKey, UdpFlow>,
    /// Those whose end is told.
    sockets: HashMap<MapData, u64, u32>,
    unix: Unix,
    lost: Array<MapData, u64>,
    /// Programs and links.
    ebpf: Ebpf,
}

impl Network {
    /// Loads, attaches, and lets the programs begin.
    pub(crate) fn load(request: &NetworkRequest) -> Result<(Self, NetworkRing), Error> {
        // Maps count against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let fields = fields::look_up(MONITOR)?;
        let object = relocate(OBJECT, &fields.shared, Some(&fields.network))?;
        // (of the kernel's types, just where two programs are attached)
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .load(&object)
            .map_err(|e| refused(MONITOR, "its maps", &e))?;
        let lost = array(&mut ebpf, &contract::LOST)?;
        let udp_flows = hash(&mut ebpf, &contract::UDP_FLOWS)?;
        let sockets = hash(&mut ebpf, &contract::SOCKETS)?;
        let ring = records(&mut ebpf)?;
        let within = within(&mut ebpf, MONITOR)?;
        let mut applied = Applied::take(&mut ebpf, within)?;
        let points = attach_ids::of(&[
            Point::tracepoint(STATES, fields.states),
            Point::function(ACCEPTED, fields.accepted),
        ])?;
        let failed = |name| move |e| refused(MONITOR, name, &e);
        let states = program::<BtfTracePoint>(&mut ebpf, STATES)?;
        states.load(STATES, &points).map_err(failed(STATES))?;
        let accepted = program::<FEntry>(&mut ebpf, ACCEPTED)?;
        accepted.load(ACCEPTED, &points).map_err(failed(ACCEPTED))?;
        for name in PROBED {
            let program = program::<KProbe>(&mut ebpf, name)?;
            program.load().map_err(failed(name))?;
        }
        let states = program::<BtfTracePoint>(&mut ebpf, STATES)?;
        states.attach().map_err(failed(STATES))?;
        let accepted = program::<FEntry>(&mut ebpf, ACCEPTED)?;
        if let Err(e) = accepted.attach() {
            tracing::debug!("a probe stands in for {ACCEPTED}: {e}");
            let probe = program::<KProbe>(&mut ebpf, ACCEPTED_PROBE)?;
            probe.load().map_err(failed(ACCEPTED_PROBE))?;
            let attached = probe.attach(ACCEPTED, 0);
            attached.map_err(failed(ACCEPTED_PROBE))?;
        }
        for name in PROBED {
            let program = program::<KProbe>(&mut ebpf, name)?;
            program.attach(name, 0).map_err(failed(name))?;
        }
        let mut unix = Unix::new(fields.knows_unix != 0);
        unix.follow(&mut ebpf, request.watch.contains(WatchFlags::UNIX))?;
        own_objects::note_monitor(&ebpf)?;
        // Last: until then the programs find nothing to do.
        applied.apply(request)?;
        let network = Self {
            applied,
            udp_flows,
            sockets,
            unix,
            lost,
            ebpf,
        };
        Ok((network, NetworkRing(ring)))
    }

    /// What it is attached to.
    pub(crate) fn attached() -> impl Iterator<Item = &'static str> {
        [STATES, ACCEPTED].into_iter().chain(PROBED)
    }

    /// From here on by another request. What is followed already is followed on, but for Unix sockets that nobody asks for any more.
    pub(crate) fn change(&mut self, request: &NetworkRequest) -> Result<(), Error> {
        let (was_asked, is_asked) = (
            self.unix.is_attached(),
            request.watch.contains(WatchFlags::UNIX),
        );
        if is_asked {
            self.unix.follow(&mut self.ebpf, true)?;
            own_objects::note_monitor(&self.ebpf)?;
        }
        let applied = self.applied.apply(request);
        let is_asked = if applied.is_ok() { is_asked } else { was_asked };
        let left = self.unix.follow(&mut self.ebpf, is_asked);
        applied.and(left)
    }

    /// Whether a socket's end is still to be told.
    pub(crate) fn is_to_end(&self, socket: u64) -> bool {
        self.sockets.get(&socket, 0).is_ok()
    }

    /// A UDP flow as it stands.
    pub(crate) fn udp_flow(&self, key: &UdpKey) -> Option<UdpFlow> {
        self.udp_flows.get(key, 0).ok()
    }

    /// Those that are followed.
    pub(crate) fn udp_flows(&self) -> impl Iterator<Item = UdpKey> {
        self.udp_flows.keys().filter_map(Result::ok)
    }

    /// It is not followed any more. One that goes on begins anew.
    pub(crate) fn forget_udp_flow(&mut self, key: &UdpKey) {
        // (not there: it is as it should be)
        let _ = self.udp_flows.remove(key);
    }

    /// How many records and connections were lost since the beginning. Those that a program was not run for, because
    /// it was interrupted on its processor by what it is attached to, are among them, though they may have been of
    /// others: the kernel counts them (of the tracepoint since 5.12, of probes since 6.7).
    pub(crate) fn lost(&self) -> u64 {
        let counters = 0..u32::try_from(LOST_COUNTERS).unwrap_or(0);
        let counted: u64 = counters
            .filter_map(|counter| self.lost.get(&counter, 0).ok())
            .sum();
        let skipped: u64 = self
            .ebpf
            .programs()
            .filter_map(|(_, program)| skipped(program.fd().ok()?.as_fd().as_raw_fd()))
            .sum();
        counted + skipped
    }
}

/// How often the program behind a descriptor was not run where it should have been.
fn skipped(program: RawFd) -> Option<u64> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{program}")).ok()?;
    let misses = told
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))?;
    misses.trim().parse().ok()
}
