//! The system call monitor's kernel side: loaded for one agent, attached to what is watched, and gone when it is
//! dropped.

mod attached;
mod settings;

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    EbpfLoader,
    maps::{Array, HashMap, MapData, RingBuf},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sidecar_common::{
    event::Header,
    monitor::Place,
    syscall::{GroupVerdict, LOST_COUNTERS, Rate, RecordKind, Syscall},
};

use self::{attached::Attached, settings::Applied};
pub(crate) use self::{attached::How, settings::SyscallsRequest};
use super::{
    Error,
    contract::syscalls as contract,
    fields,
    maps::failed,
    parts::{array, hash, records, refused, within},
    relocate::relocate,
    ring::whole,
};

/// The kernel side, as `build.rs` left it.
pub(super) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/syscalls.bpf.o"));
/// The monitor's key below `monitoring`.
const MONITOR: &str = "syscalls";

/// Every program that is loaded here.
#[cfg(test)]
pub(super) fn program_names() -> Vec<&'static str> {
    let mut names = attached::PROBES.to_vec();
    names.extend(attached::POINTS);
    names.push(attached::EXEC);
    names
}

/// See the module.
pub(crate) struct Syscalls {
    applied: Applied,
    attached: Attached,
    groups: HashMap<MapData, u64, u32>,
    rates: HashMap<MapData, u64, Rate>,
    lost: Array<MapData, u64>,
}

impl Syscalls {
    /// Loads, attaches, and lets the programs begin.
    pub(crate) fn load(request: &SyscallsRequest) -> Result<(Self, SyscallRing), Error> {
        // Maps count against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let fields = fields::look_up(MONITOR)?;
        let object = relocate(OBJECT, &fields.shared, None)?;
        // No kernel types: these programs take their arguments as numbers.
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .load(&object)
            .map_err(|e| refused(MONITOR, "its maps", &e))?;
        let ring = records(&mut ebpf)?;
        let within = within(&mut ebpf, MONITOR)?;
        let mut syscalls = Self {
            applied: Applied::take(&mut ebpf, within)?,
            groups: hash(&mut ebpf, &contract::GROUPS)?,
            rates: hash(&mut ebpf, &contract::RATES)?,
            lost: array(&mut ebpf, &contract::LOST)?,
            attached: Attached::new(ebpf),
        };
        syscalls.change(request)?;
        Ok((syscalls, SyscallRing(ring)))
    }

    /// From here on by another request. What both requests ask for is watched all the while.
    pub(crate) fn change(&mut self, request: &SyscallsRequest) -> Result<(), Error> {
        self.applied.apply(request)?;
        self.attached.follow(&request.calls)?;
        self.applied.settle(request)
    }

    /// How each watched call is watched.
    pub(crate) fn how(&self) -> impl Iterator<Item = (&'static str, How)> {
        self.attached.how()
    }

    /// Whether a control group's calls are to be told of, as long as the request says that it matters.
    pub(crate) fn judge(&mut self, cgroup: u64, is_wanted: bool) -> Result<(), Error> {
        let verdict = if is_wanted {
            GroupVerdict::Wanted
        } else {
            GroupVerdict::Unwanted
        };
        let judged = self.groups.insert(cgroup, verdict as u32, 0);
        judged.map_err(failed(contract::GROUPS.name))
    }

    /// Takes every judgement back.
    pub(crate) fn judge_anew(&mut self) {
        let known: Vec<u64> = self.groups.keys().filter_map(Result::ok).collect();
        for cgroup in known {
            // (gone by itself: it is as it should be)
            let _ = self.groups.remove(&cgroup);
        }
    }

    /// What each control group had too much of, since the beginning.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (u64, u64)> {
        let rates = self.rates.iter().filter_map(Result::ok);
        rates.filter_map(|(cgroup, rate)| (rate.dropped > 0).then_some((cgroup, rate.dropped)))
    }

    /// How many records and calls were lost since the beginning.
    pub(crate) fn lost(&self) -> u64 {
        let counters = 0..u32::try_from(LOST_COUNTERS).unwrap_or(0);
        counters
            .filter_map(|counter| self.lost.get(&counter, 0).ok())
            .sum()
    }
}

/// The reading end.
pub(crate) struct SyscallRing(RingBuf<MapData>);

impl SyscallRing {
    /// The next record, if there is one.
    pub(crate) fn next(&mut self) -> Option<SyscallRecord> {
        self.0.next().map(|bytes| SyscallRecord::parse(&bytes))
    }
}

/// What the kernel side says.
pub(crate) enum SyscallRecord {
    /// A call returned, or does not.
    Call(Box<Syscall>),
    /// Where a control group is.
    Place(Box<Place>),
    /// Bytes that are none of these.
    Unknown,
}

impl SyscallRecord {
    /// What a record's bytes mean.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let parse = || -> Option<Self> {
            let header: Header = whole(bytes)?;
            Some(match RecordKind::try_from(header.kind).ok()? {
                RecordKind::Syscall => Self::Call(Box::new(whole(bytes)?)),
                RecordKind::Place => Self::Place(Box::new(whole(bytes)?)),
            })
        };
        parse().unwrap_or(Self::Unknown)
    }
}

impl AsFd for SyscallRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
