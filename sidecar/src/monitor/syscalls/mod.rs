//! What programs ask of the kernel: every watched system call, with its arguments and what it returned.

mod arguments;
mod report;

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, BorrowedFd},
};

use sidecar_common::policy::ScopeId;

use super::{desk::Desk, watch::Monitor};
use crate::{
    config::{self, calls::Call},
    kernel::{self, How, SyscallRecord, SyscallRing, Syscalls, SyscallsWish},
};

/// Records after which what was collected is handed over: whoever floods us must not make us collect without end.
const AT_ONCE: usize = 512;

/// What is told of, and what is not.
pub(super) struct Filter {
    wish: SyscallsWish,
    /// Names or ids; empty for all.
    containers: Vec<String>,
}

impl Filter {
    pub(super) fn of(config: &config::Syscalls) -> Self {
        Self {
            wish: SyscallsWish {
                scope: 0,
                calls: config.calls().collect(),
                uids: config.uids.clone(),
                only_failed: config.failed,
                only_groups: !config.containers.is_empty(),
                rate: config.rate_per_second.unwrap_or(0),
            },
            containers: config.containers.clone(),
        }
    }

    fn of_scope(mut self, scope: ScopeId) -> Self {
        self.wish.scope = scope;
        self
    }
}

/// See the module.
pub(super) struct SyscallMonitor {
    filter: Filter,
    kernel: Syscalls,
    ring: SyscallRing,
    calls: HashMap<u32, &'static Call>,
    /// What each control group had too much of, as far as it was told.
    dropped: HashMap<u64, u64>,
}

impl SyscallMonitor {
    /// Loads and attaches.
    pub(super) fn load(filter: Filter) -> Result<Self, kernel::Error> {
        let filter = filter.of_scope(kernel::own_scope()?);
        let (kernel, ring) = Syscalls::load(&filter.wish)?;
        let monitor = Self {
            filter,
            kernel,
            ring,
            calls: config::calls::all()
                .filter_map(|call| Some((call.number()?, call)))
                .collect(),
            dropped: HashMap::new(),
        };
        monitor.say_how();
        Ok(monitor)
    }

    fn say_how(&self) {
        let count = |wanted: How| self.kernel.how().filter(|(_, how)| *how == wanted).count();
        tracing::info!(
            by_probes = count(How::Probes),
            by_tracepoints = count(How::Tracepoints),
            "system calls are watched"
        );
        for (name, how) in self.kernel.how() {
            tracing::debug!("{name} is watched by {how:?}");
        }
    }
}

impl Monitor for SyscallMonitor {
    type Wish = Filter;
    const LOST_IN: &'static str = "syscalls";

    fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    fn drain(&mut self, desk: &mut Desk) {
        let mut taken = 0;
        while let Some(record) = self.ring.next() {
            match record {
                SyscallRecord::Call(call) => self.report(&call, desk),
                SyscallRecord::Place(place) => desk.learn(&place),
                SyscallRecord::Unknown => {
                    tracing::error!("a record of the system call monitor's is not of this version");
                }
            }
            taken += 1;
            if taken % AT_ONCE == 0 {
                desk.journal.flush();
            }
        }
    }

    fn tick(&mut self, desk: &mut Desk) {
        for (cgroup, dropped) in self.kernel.dropped().collect::<Vec<_>>() {
            let told = self.dropped.get(&cgroup).copied().unwrap_or(0);
            // (less than was told: it was forgotten in between, and counts anew)
            let count = dropped.checked_sub(told).unwrap_or(dropped);
            if count > 0 {
                desk.tell_excess(cgroup, count);
                self.dropped.insert(cgroup, dropped);
            }
        }
    }

    fn change(&mut self, filter: Filter) -> Result<(), kernel::Error> {
        let filter = filter.of_scope(self.filter.wish.scope);
        self.kernel.change(&filter.wish)?;
        if self.filter.containers != filter.containers {
            self.kernel.judge_anew();
        }
        self.filter = filter;
        self.say_how();
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.kernel.lost()
    }
}
