//! What stands beside the sealing and tells of what programs do. Each monitor is loaded while the configuration asks
//! for it, has a thread of its own that reads its records, and costs nothing when it is off.

mod context;
mod names;
mod network;
mod syscalls;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;

pub(crate) use self::syscalls::{Attached, Subscription};
use self::{
    context::MonitorContext,
    network::NetworkMonitor,
    syscalls::SyscallMonitor,
    watch::{Monitor, Watch},
};
use crate::{
    config, kernel,
    observe::{Journal, Metrics, Protocol},
    process::{Pod, Pods, Whereabouts},
};

/// What a monitor's context is made of.
struct MonitorDeps {
    journal: Journal,
    metrics: Metrics,
    pod: Option<Pod>,
    pods: Option<Pods>,
}

impl MonitorDeps {
    fn context(&self, own_cgroup: impl Fn() -> PathBuf) -> anyhow::Result<MonitorContext> {
        Ok(MonitorContext {
            journal: self.journal.clone(),
            metrics: self.metrics.clone(),
            whereabouts: Whereabouts::new(&own_cgroup(), self.pod.clone(), self.pods.clone())
                .context("look up where we live")?,
        })
    }
}

/// The monitors that are at work.
pub(crate) struct Monitors {
    deps: MonitorDeps,
    network: Option<Watch<NetworkMonitor>>,
    syscalls: Option<Watch<SyscallMonitor>>,
}

impl Monitors {
    /// None yet. `pod` is the one that all we see belongs to.
    pub(crate) fn new(journal: Journal, metrics: Metrics, pod: Option<Pod>) -> Self {
        let deps = MonitorDeps {
            journal,
            metrics,
            pod,
            pods: None,
        };
        Self {
            deps,
            network: None,
            syscalls: None,
        }
    }

    /// Those that are loaded from here on know the node's pods.
    pub(crate) fn know(&mut self, pods: Option<Pods>) {
        self.deps.pods = pods;
    }

    /// Brings them to what the configuration asks for, and system calls' also to what `others` do. On an error they are as
    /// they were. `own_cgroup` is the agent's, from the machine's root.
    pub(crate) async fn heed(
        &mut self,
        config: &config::Monitoring,
        others: &[Subscription],
        own_cgroup: impl Fn() -> PathBuf,
    ) -> anyhow::Result<Attached> {
        let request = &config.network;
        let request = request.enabled.then(|| network::Filter::of(request));
        let context = || self.deps.context(&own_cgroup);
        let load = NetworkMonitor::load;
        if request.is_some() {
            self.deps
                .metrics
                .traffic
                .begin_at_zero(protocols(config.network.protocols));
        }
        heed(&mut self.network, "network", request, load, context).await?;
        self.heed_syscalls(&config.syscalls, others, own_cgroup)
            .await
    }

    /// The same of the system calls' alone; what is watched then, and how.
    pub(crate) async fn heed_syscalls(
        &mut self,
        config: &config::Syscalls,
        others: &[Subscription],
        own_cgroup: impl Fn() -> PathBuf,
    ) -> anyhow::Result<Attached> {
        let request = syscalls::Filter::of(config, others);
        let context = || self.deps.context(&own_cgroup);
        let load = SyscallMonitor::load;
        let attached = heed(&mut self.syscalls, "syscalls", request, load, context).await?;
        let attached = attached.unwrap_or_default();
        self.deps.metrics.add_calls(attached.keys().copied());
        Ok(attached)
    }

    /// Whether one that should be at work is not.
    pub(crate) fn have_failed(&self) -> bool {
        self.network.as_ref().is_some_and(Watch::has_ended)
            || self.syscalls.as_ref().is_some_and(Watch::has_ended)
    }
}

fn protocols(wanted: config::Protocols) -> impl Iterator<Item = Protocol> {
    let is_wanted = move |protocol: &Protocol| match protocol {
        Protocol::Tcp => wanted.tcp,
        Protocol::Udp => wanted.udp,
        Protocol::Unix => wanted.unix,
    };
    Protocol::ALL.iter().copied().filter(is_wanted)
}

/// Brings one monitor to what is asked of it; what came of it, where something is asked.
async fn heed<M: Monitor>(
    monitor: &mut Option<Watch<M>>,
    name: &'static str,
    request: Option<M::Request>,
    load: fn(M::Request) -> Result<M, kernel::Error>,
    context: impl FnOnce() -> anyhow::Result<MonitorContext>,
) -> anyhow::Result<Option<M::State>> {
    Ok(match (&mut *monitor, request) {
        (None, None) => None,
        (Some(_), None) => {
            *monitor = None;
            tracing::info!("the {name} monitor is off");
            None
        }
        (Some(watch), Some(request)) => Some(watch.change(request).await?),
        (None, Some(request)) => {
            let context = context()?;
            // Apart: meanwhile somebody has to see to what is held.
            let loaded = tokio::task::spawn_blocking(move || load(request)).await??;
            let state = loaded.state();
            *monitor = Some(Watch::start(name, loaded, context)?);
            tracing::info!("the {name} monitor is on");
            Some(state)
        }
    })
}
