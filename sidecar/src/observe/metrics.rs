//! Metrics, in the text format Prometheus reads.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::{computed::Computed, traffic::Traffic};

/// Bounds of the exec-to-release histogram, in seconds.
const RELEASE_BUCKETS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0, 5.0,
];

/// What is counted. Cheap to clone: clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Programs started whose name is bound.
    pub(crate) exec_events: IntCounter,
    /// Secrets delivered, a variable and a file of one name being one.
    pub(crate) secrets_injected: IntCounter,
    /// Accesses refused, by `access`.
    pub(crate) access_blocked: IntCounterVec,
    /// Accesses logged, by `access`.
    pub(crate) access_audit: IntCounterVec,
    /// Secrets of running programs that have another value.
    pub(crate) rotated: IntCounter,
    /// Whether the configuration's file, as it is now, is the one in force.
    pub(crate) config_is_good: IntGauge,
    /// Whether the guard's last self-test passed.
    pub(crate) guard_is_up: IntGauge,
    /// Programs refused.
    pub(crate) refused: IntCounter,
    /// Events lost, by `lost_in`.
    pub(crate) events_dropped: IntCounterVec,
    /// Processes that were given a seal, by this agent or one before it, and that run.
    pub(crate) sealed_processes: IntGauge,
    /// Seconds from exec to release.
    pub(crate) release: Histogram,
    /// Connections.
    pub(crate) traffic: Traffic,
    /// System calls, by name and outcome.
    pub(crate) syscalls: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            exec_events: IntCounter::new(
                "kernelseal_exec_events_total",
                "Programs started whose name a binding watches.",
            )?,
            secrets_injected: IntCounter::new(
                "kernelseal_secrets_injected_total",
                "Secrets delivered to programs.",
            )?,
            access_blocked: by(
                "kernelseal_access_blocked_total",
                "Accesses to sealed processes and files that were refused.",
                "access",
            )?,
            access_audit: by(
                "kernelseal_access_audit_total",
                "Accesses to sealed processes and files that were allowed and logged.",
                "access",
            )?,
            rotated: IntCounter::new(
                "kernelseal_secrets_rotated_total",
                "Secrets of running programs that were brought up to another value.",
            )?,
            config_is_good: IntGauge::new(
                "kernelseal_config_last_reload_successful",
                "1 if the configuration file was last found to be right and is in force, 0 if it was refused and the one before stays in force.",
            )?,
            guard_is_up: IntGauge::new(
                "kernelseal_guard_up",
                "1 if the last self-test saw the guard's hooks at work, 0 if not, or if no guard is asked for (policy.mode disabled).",
            )?,
            refused: IntCounter::new(
                "kernelseal_programs_refused_total",
                "Programs that were refused their secrets.",
            )?,
            events_dropped: by(
                "kernelseal_events_dropped_total",
                "Events that were lost.",
                "lost_in",
            )?,
            sealed_processes: IntGauge::new(
                "kernelseal_sealed_processes",
                "Processes that were given secrets and run.",
            )?,
            release: Histogram::with_opts(
                HistogramOpts::new(
                    "kernelseal_exec_to_release_seconds",
                    "Time a program was held, from its exec to its release.",
                )
                .buckets(RELEASE_BUCKETS.to_vec()),
            )?,
            traffic: Traffic::new(&registry)?,
            syscalls: IntCounterVec::new(
                Opts::new(
                    "kernelseal_syscalls_total",
                    "System calls that were told of, by name and outcome.",
                ),
                &["syscall", "outcome"],
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.exec_events.clone()))?;
        registry.register(Box::new(metrics.secrets_injected.clone()))?;
        registry.register(Box::new(metrics.access_blocked.clone()))?;
        registry.register(Box::new(metrics.access_audit.clone()))?;
        registry.register(Box::new(metrics.rotated.clone()))?;
        registry.register(Box::new(metrics.config_is_good.clone()))?;
        registry.register(Box::new(metrics.guard_is_up.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.events_dropped.clone()))?;
        registry.register(Box::new(metrics.sealed_processes.clone()))?;
        registry.register(Box::new(metrics.release.clone()))?;
        registry.register(Box::new(metrics.syscalls.clone()))?;
        for lost_in in ["kernel", "network", "output", "rate", "syscalls"] {
            metrics.events_dropped.with_label_values(&[lost_in]);
        }
        Ok(metrics)
    }

    /// Adds the ages of secrets that are kept elsewhere: of which kind, which, and how many seconds.
    pub(crate) fn ages(
        &self,
        of: impl Fn() -> Vec<([String; 2], f64)> + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let opts = Opts::new(
            "kernelseal_cached_secret_age_seconds",
            "Time since the keeper of a cached secret last answered for it.",
        );
        let ages = Computed::new(opts, ["source", "secret"], of)?;
        self.registry.register(Box::new(ages))
    }

    /// The text format.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn by(name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}
