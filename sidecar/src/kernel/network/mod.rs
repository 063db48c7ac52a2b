//! The network monitor's kernel side: loaded for one agent, attached, and gone when it is dropped.

mod records;
mod settings;

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{KProbe, RawTracePoint},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sidecar_common::network::{Connection, LOST_COUNTERS, UdpKey};

pub(crate) use self::records::{NetworkRecord, NetworkRing};
use self::settings::Applied;
pub(crate) use self::settings::NetworkWish;
use super::{
    Error, fields,
    load::program,
    maps::failed,
    parts::{array, own_level, refused, take},
    relocate::relocate,
};

/// The kernel side, as `build.rs` left it.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/network.bpf.o"));

/// The tracepoints we attach to; a program has its tracepoint's name.
const TRACEPOINTS: [&str; 1] = ["inet_sock_set_state"];
/// The kernel functions at whose beginning we attach; a program has its function's name.
const FUNCTIONS: [&str; 6] = [
    "security_sock_graft",
    "ip_send_skb",
    "ip6_send_skb",
    "skb_consume_udp",
    "udp_destroy_sock",
    "udpv6_destroy_sock",
];

/// The monitor's key below `monitoring`.
const MONITOR: &str = "network";

/// See the module.
pub(crate) struct Network {
    applied: Applied,
    udp_flows: HashMap<MapData, UdpKey, Connection>,
    lost: Array<MapData, u64>,
    /// Programs and links.
    ebpf: Ebpf,
}

impl Network {
    /// Loads, attaches, and lets the programs begin.
    pub(crate) fn load(wish: &NetworkWish) -> Result<(Self, NetworkRing), Error> {
        // Maps count against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let fields = fields::look_up(MONITOR)?;
        let object = relocate(OBJECT, &fields.shared, Some(&fields.network))?;
        // No kernel types: these programs take their arguments as numbers.
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .load(&object)
            .map_err(|e| refused(MONITOR, "its maps", &e))?;
        let lost = array(&mut ebpf, "LOST")?;
        let udp_flows =
            HashMap::try_from(take(&mut ebpf, "UDP_FLOWS")?).map_err(failed("UDP_FLOWS"))?;
        let ring = RingBuf::try_from(take(&mut ebpf, "RECORDS")?).map_err(failed("RECORDS"))?;
        let level = own_level(&mut ebpf, MONITOR)?;
        let mut applied = Applied::take(&mut ebpf, level)?;
        for name in TRACEPOINTS {
            let program = program::<RawTracePoint>(&mut ebpf, name)?;
            program.load().map_err(|e| refused(MONITOR, name, &e))?;
        }
        for name in FUNCTIONS {
            let program = program::<KProbe>(&mut ebpf, name)?;
            program.load().map_err(|e| refused(MONITOR, name, &e))?;
        }
        for name in TRACEPOINTS {
            let program = program::<RawTracePoint>(&mut ebpf, name)?;
            program
                .attach(name)
                .map_err(|e| refused(MONITOR, name, &e))?;
        }
        for name in FUNCTIONS {
            let program = program::<KProbe>(&mut ebpf, name)?;
            program
                .attach(name, 0)
                .map_err(|e| refused(MONITOR, name, &e))?;
        }
        // Last: until then the programs find nothing to do.
        applied.apply(wish)?;
        let network = Self {
            applied,
            udp_flows,
            lost,
            ebpf,
        };
        Ok((network, NetworkRing(ring)))
    }

    /// What it is attached to.
    pub(crate) fn attached() -> impl Iterator<Item = &'static str> {
        TRACEPOINTS.into_iter().chain(FUNCTIONS)
    }

    /// From here on by another wish. What is followed already is followed on.
    pub(crate) fn change(&mut self, wish: &NetworkWish) -> Result<(), Error> {
        self.applied.apply(wish)
    }

    /// A UDP flow as it stands.
    pub(crate) fn udp_flow(&self, key: &UdpKey) -> Option<Connection> {
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
    /// others: the kernel counts them (5.12; before that it does not skip them here).
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
