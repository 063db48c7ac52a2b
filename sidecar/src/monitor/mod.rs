//! What stands beside the sealing and tells of what programs do. Each monitor is loaded while the configuration asks
//! for it, has a thread of its own that reads its records, and costs nothing when it is off.

mod desk;
mod network;
mod syscalls;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;

use self::{
    desk::Desk,
    network::NetworkMonitor,
    syscalls::SyscallMonitor,
    watch::{Monitor, Watch},
};
use crate::{
    config, kernel,
    observe::{Journal, Metrics},
    process::{Pod, Pods, Whereabouts},
};

/// The monitors that are at work.
pub(crate) struct Monitors {
    journal: Journal,
    metrics: Metrics,
    pod: Option<Pod>,
    pods: Option<Pods>,
    network: Option<Watch<NetworkMonitor>>,
    syscalls: Option<Watch<SyscallMonitor>>,
}

impl Monitors {
    /// None yet. `pod` is the one that all we see belongs to.
    pub(crate) fn new(journal: Journal, metrics: Metrics, pod: Option<Pod>) -> Self {
        Self {
            journal,
            metrics,
            pod,
            pods: None,
            network: None,
            syscalls: None,
        }
    }

    /// Those that are loaded from here on know the node's pods.
    pub(crate) fn know(&mut self, pods: Option<Pods>) {
        self.pods = pods;
    }

    /// Brings them to what the configuration asks for. On an error they are as they were. `own_cgroup` is the
    /// agent's, from the machine's root.
    pub(crate) async fn heed(
        &mut self,
        config: &config::Monitoring,
        own_cgroup: impl Fn() -> PathBuf,
    ) -> anyhow::Result<()> {
        let desk = || {
            Ok(Desk {
                journal: self.journal.clone(),
                metrics: self.metrics.clone(),
                whereabouts: Whereabouts::new(&own_cgroup(), self.pod.clone(), self.pods.clone())
                    .context("look up where we live")?,
            })
        };
        let wish = &config.network;
        let wish = wish.enabled.then(|| network::Filter::of(wish));
        heed(
            &mut self.network,
            "network",
            wish,
            NetworkMonitor::load,
            desk,
        )
        .await?;
        let wish = &config.syscalls;
        let wish = wish.enabled.then(|| syscalls::Filter::of(wish));
        heed(
            &mut self.syscalls,
            "syscalls",
            wish,
            SyscallMonitor::load,
            desk,
        )
        .await
    }

    /// Whether one that should be at work is not.
    pub(crate) fn have_failed(&self) -> bool {
        self.network.as_ref().is_some_and(Watch::has_ended)
            || self.syscalls.as_ref().is_some_and(Watch::has_ended)
    }
}

/// Brings one monitor to what is asked of it.
async fn heed<M: Monitor>(
    monitor: &mut Option<Watch<M>>,
    name: &'static str,
    wish: Option<M::Wish>,
    load: fn(M::Wish) -> Result<M, kernel::Error>,
    desk: impl FnOnce() -> anyhow::Result<Desk>,
) -> anyhow::Result<()> {
    match (&mut *monitor, wish) {
        (None, None) => {}
        (Some(_), None) => {
            *monitor = None;
            tracing::info!("the {name} monitor is off");
        }
        (Some(watch), Some(wish)) => watch.change(wish).await?,
        (None, Some(wish)) => {
            let desk = desk()?;
            // Apart: meanwhile somebody has to see to what is held.
            let loaded = tokio::task::spawn_blocking(move || load(wish)).await??;
            *monitor = Some(Watch::start(name, loaded, desk)?);
            tracing::info!("the {name} monitor is on");
        }
    }
    Ok(())
}
