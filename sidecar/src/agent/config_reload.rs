//! The configuration in force, and its reloads.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Monitoring, Network, Syscalls},
    observe::{Journal, Lifecycle, Metrics},
    util::FileWatcher,
};

/// Signals that end us.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one that ends us.
    pub(super) async fn end(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}

/// The configuration that is in force, and what becomes of its file.
pub(super) struct ConfigReloader {
    path: PathBuf,
    file: FileWatcher,
    /// SIGHUP: look now.
    reload: Signal,
    metrics: Metrics,
    journal: Journal,
    /// In force, or about to be.
    pub(super) config: Arc<Config>,
    before: Arc<Config>,
}

impl ConfigReloader {
    pub(super) fn of(
        path: &Path,
        config: Config,
        metrics: Metrics,
        journal: Journal,
    ) -> std::io::Result<Self> {
        metrics.config_is_good.set(1);
        metrics.add_bindings(&config);
        let config = Arc::new(config);
        Ok(Self {
            path: path.to_owned(),
            file: FileWatcher::at([path.to_owned()]),
            reload: signal(SignalKind::hangup())?,
            metrics,
            journal,
            before: config.clone(),
            config,
        })
    }

    /// Waits until there is another configuration. One that is wrong is told, and is none.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.reload.recv() => self.journal.reopen_audit_log(),
                () = self.file.change() => {}
            }
            match super::read(&self.path) {
                Ok(config) if config == *self.config => {
                    self.metrics.config_is_good.set(1);
                    tracing::info!("the configuration has not changed");
                }
                Ok(config) => {
                    self.metrics.add_bindings(&config);
                    self.before = std::mem::replace(&mut self.config, Arc::new(config));
                    return;
                }
                Err(e) => self.tell(&e),
            }
        }
    }

    /// The last one cannot be used: the one before it stays in force.
    pub(super) fn reject(&mut self, why: &anyhow::Error) {
        self.metrics.remove_bindings(&self.config, &self.before);
        self.config = self.before.clone();
        self.tell(why);
    }

    fn tell(&mut self, why: &anyhow::Error) {
        self.metrics.config_is_good.set(0);
        tracing::error!("the previous configuration stays in force: {why:#}");
        self.emit(Lifecycle::ConfigRejected, Some(&format!("{why:#}")));
    }

    fn emit(&mut self, action: Lifecycle, reason: Option<&str>) {
        let mode = self.config.policy.mode.name();
        self.journal.emit_lifecycle(action, mode, reason);
        self.journal.flush();
    }

    /// The kernel side did not take the last one: by which programs are held, and what is refused.
    pub(super) fn is_in_force_by_halves(&self, why: &anyhow::Error) {
        self.metrics.config_is_good.set(0);
        tracing::error!(
            "not all of the configuration is in force: {why:#}. Programs that only the new one names may start without their \
             secrets. The agent tries again, and /ready is 503 until it succeeds"
        );
    }

    /// The last one is in force.
    pub(super) fn accept(&mut self) {
        self.metrics.config_is_good.set(1);
        self.metrics.remove_bindings(&self.before, &self.config);
        self.emit(Lifecycle::ConfigReloaded, None);
        if self.config.policy.mode != self.before.policy.mode {
            let before = self.before.policy.mode.name();
            self.emit(Lifecycle::ModeChanged, Some(&format!("it was {before}")));
        }
        let Config {
            secrets, policy, ..
        } = &*self.config;
        tracing::info!(bindings = secrets.len(), mode = ?policy.mode, "configuration reloaded");
        let monitoring = |config: &Config| Monitoring {
            // (which is heeded at once)
            network: Network::default(),
            syscalls: Syscalls::default(),
            ..config.monitoring.clone()
        };
        if monitoring(&self.config) != monitoring(&self.before) {
            tracing::warn!(
                "changes of monitoring, except network and syscalls, take effect at the next start of the agent"
            );
        }
    }
}
