//! What programs ask of the kernel: every watched system call, with its arguments and what it returned.

mod arguments;
mod report;
mod subscription;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd as _, BorrowedFd},
};

use tokio::sync::watch;

pub(crate) use self::subscription::Subscription;
use self::subscription::Subscriptions;
use super::{context::MonitorContext, watch::Monitor};
use crate::{
    config::{self, calls::Call},
    kernel::{self, How, SyscallRecord, SyscallRing, Syscalls, SyscallsRequest},
    process::Pods,
};

/// Records after which what was collected is handed over: whoever floods us must not make us collect without end.
const AT_ONCE: usize = 512;

/// How each call is watched that is, by name.
pub(crate) type Attached = BTreeMap<&'static str, How>;

/// What is told of, and what is not.
pub(super) struct Filter {
    subscriptions: Subscriptions,
    /// Records a second for each control group, whoever asks; 0 for any number.
    rate: u32,
}

impl Filter {
    /// What the configuration and others ask for; nothing, if they do not ask.
    pub(super) fn of(config: &config::Syscalls, others: &[Subscription]) -> Option<Self> {
        let own = Subscription::of_config(config);
        let subscriptions: Subscriptions = own.into_iter().chain(others.iter().cloned()).collect();
        (!subscriptions.is_empty()).then(|| Self {
            subscriptions,
            rate: config.rate_per_second.unwrap_or(0),
        })
    }

    fn request(&self) -> SyscallsRequest {
        self.subscriptions.request(self.rate)
    }
}

/// See the module.
pub(super) struct SyscallMonitor {
    subscriptions: Subscriptions,
    /// Whether the kernel side asks which control groups are wanted.
    judges: bool,
    /// That pods have other labels, perhaps.
    pods: Option<watch::Receiver<()>>,
    kernel: Syscalls,
    ring: SyscallRing,
    calls: HashMap<u32, &'static Call>,
    /// What each control group had too much of, as far as it was told.
    dropped: HashMap<u64, u64>,
}

impl SyscallMonitor {
    /// Loads and attaches.
    pub(super) fn load(filter: Filter) -> Result<Self, kernel::Error> {
        let request = filter.request();
        let (kernel, ring) = Syscalls::load(&request)?;
        let monitor = Self {
            subscriptions: filter.subscriptions,
            judges: request.only_groups,
            pods: None,
            kernel,
            ring,
            calls: config::calls::numbered(&config::calls::all().collect::<Vec<_>>()).collect(),
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

    /// Judges anew when pods may have got other labels.
    fn follow_labels(&mut self, pods: Option<&Pods>) {
        if self.pods.is_none() {
            self.pods = pods.map(Pods::subscribe_to_changes);
        }
        let Some(pods) = &mut self.pods else {
            return;
        };
        if pods.has_changed().unwrap_or(false) {
            pods.mark_unchanged();
            if self.subscriptions.go_by_labels() {
                self.kernel.judge_anew();
            }
        }
    }
}

impl Monitor for SyscallMonitor {
    type Request = Filter;
    type State = Attached;
    const LOST_IN: &'static str = "syscalls";

    fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    fn state(&self) -> Attached {
        self.kernel.how().collect()
    }

    fn drain(&mut self, context: &mut MonitorContext) {
        self.follow_labels(context.whereabouts.pods());
        let mut taken = 0;
        while let Some(record) = self.ring.next() {
            match record {
                SyscallRecord::Call(call) => self.report(&call, context),
                SyscallRecord::Place(place) => context.learn(&place),
                SyscallRecord::Unknown => {
                    tracing::error!(
                        "unknown record in the system call monitor's ring: its kernel side is of another version"
                    );
                }
            }
            taken += 1;
            if taken % AT_ONCE == 0 {
                context.journal.flush();
            }
        }
    }

    fn tick(&mut self, context: &mut MonitorContext) {
        for (cgroup, dropped) in self.kernel.dropped().collect::<Vec<_>>() {
            let told = self.dropped.get(&cgroup).copied().unwrap_or(0);
            // (less than was told: it was forgotten in between, and counts anew)
            let count = dropped.checked_sub(told).unwrap_or(dropped);
            if count > 0 {
                context.tell_excess(cgroup, count);
                self.dropped.insert(cgroup, dropped);
            }
        }
    }

    fn change(&mut self, filter: Filter) -> Result<(), kernel::Error> {
        let request = filter.request();
        self.kernel.change(&request)?;
        if !self.subscriptions.judge_like(&filter.subscriptions) {
            self.kernel.judge_anew();
        }
        self.subscriptions = filter.subscriptions;
        self.judges = request.only_groups;
        self.say_how();
        Ok(())
    }

    fn lost(&self) -> u64 {
        self.kernel.lost()
    }
}
