//! What stands beside the sealing and tells of what programs do. Each monitor is loaded while the configuration asks
//! for it, has a thread of its own that reads its records, and costs nothing when it is off.

mod desk;
mod network;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;

use self::{
    desk::Desk,
    network::{Filter, NetworkMonitor},
    watch::Watch,
};
use crate::{
    config,
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
        config: &config::Network,
        own_cgroup: impl FnOnce() -> PathBuf,
    ) -> anyhow::Result<()> {
        match (&mut self.network, config.enabled) {
            (None, false) => {}
            (Some(_), false) => {
                self.network = None;
                tracing::info!("the network monitor is off");
            }
            (Some(watch), true) => watch.change(Filter::of(config)).await?,
            (None, true) => {
                let desk = self.desk(own_cgroup)?;
                let filter = Filter::of(config);
                // Apart: meanwhile somebody has to see to what is held.
                let monitor =
                    tokio::task::spawn_blocking(|| NetworkMonitor::load(filter)).await??;
                self.network = Some(Watch::start("network", monitor, desk)?);
                tracing::info!("the network monitor is on");
            }
        }
        Ok(())
    }

    fn desk(&self, own_cgroup: impl FnOnce() -> PathBuf) -> anyhow::Result<Desk> {
        let whereabouts = Whereabouts::new(&own_cgroup(), self.pod.clone(), self.pods.clone())
            .context("look up where we live")?;
        Ok(Desk {
            journal: self.journal.clone(),
            metrics: self.metrics.clone(),
            whereabouts,
        })
    }

    /// Whether one that should be at work is not.
    pub(crate) fn have_failed(&self) -> bool {
        self.network.as_ref().is_some_and(Watch::has_ended)
    }
}
