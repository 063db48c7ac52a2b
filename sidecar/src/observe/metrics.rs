//! Metrics, in the text format Prometheus reads.

use std::collections::BTreeSet;

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use super::{
    computed::Computed,
    labels::{ACCESSES, Reason, access_label},
    traffic::Traffic,
};
use crate::config::Config;

/// Bounds of the exec-to-release histogram, in seconds.
const RELEASE_BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 20.0, 30.0,
];
/// Where events are lost.
const LOST_IN: [&str; 7] = [
    "audit_log",
    "kernel",
    "network",
    "output",
    "rate",
    "stdout",
    "syscalls",
];
/// What becomes of a system call.
const CALL_OUTCOMES: [&str; 2] = ["ok", "failed"];

/// What is counted. Cheap to clone: clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Programs started whose name is bound.
    pub(crate) exec_events: IntCounter,
    /// Secrets delivered, a variable and a file of one name being one.
    pub(crate) secrets_injected: IntCounter,
    access_blocked: IntCounterVec,
    access_audit: IntCounterVec,
    binding_matches: IntCounterVec,
    /// Secrets of running programs that have another value.
    pub(crate) rotated: IntCounter,
    /// Whether the configuration's file, as it is now, is the one in force.
    pub(crate) config_is_good: IntGauge,
    /// Whether the guard's last self-test passed.
    pub(crate) guard_is_up: IntGauge,
    refused: IntCounterVec,
    /// Programs that are held.
    pub(crate) held: IntGauge,
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
                "1 if the configuration file as last read is in force. 0 if it was refused and the previous one stays in force, or if only a part of it is in force.",
            )?,
            guard_is_up: IntGauge::new(
                "kernelseal_guard_up",
                "1 if the last self-test saw the guard's hooks at work, 0 if not, or if no guard is asked for (policy.mode disabled).",
            )?,
            binding_matches: by(
                "kernelseal_binding_matches_total",
                "Programs started that a binding means, whether they got its secrets or were refused them.",
                "binding",
            )?,
            refused: by(
                "kernelseal_programs_refused_total",
                "Programs that were refused their secrets.",
                "reason",
            )?,
            held: IntGauge::new(
                "kernelseal_held_programs",
                "Programs that are held and wait for their secrets, as they were last looked at.",
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
        registry.register(Box::new(metrics.binding_matches.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.events_dropped.clone()))?;
        registry.register(Box::new(metrics.sealed_processes.clone()))?;
        registry.register(Box::new(metrics.release.clone()))?;
        registry.register(Box::new(metrics.syscalls.clone()))?;
        metrics.begin_at_zero()?;
        Ok(metrics)
    }

    /// Makes the series of every label whose values are a closed set, and says what is built.
    fn begin_at_zero(&self) -> prometheus::Result<()> {
        for lost_in in LOST_IN {
            self.events_dropped.with_label_values(&[lost_in]);
        }
        for access in ACCESSES {
            self.access_blocked.with_label_values(&[access]);
            self.access_audit.with_label_values(&[access]);
        }
        for reason in Reason::ALL {
            self.refused.with_label_values(&[reason.name()]);
        }
        let built = IntGauge::with_opts(
            Opts::new(
                "kernelseal_build_info",
                "Always 1; the labels say which program this is.",
            )
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("arch", std::env::consts::ARCH),
        )?;
        built.set(1);
        self.registry.register(Box::new(built))
    }

    /// An access that was refused.
    pub(crate) fn count_blocked(&self, access: &str) {
        let label = access_label(access);
        self.access_blocked.with_label_values(&[label]).inc();
    }

    /// One that was allowed and reported.
    pub(crate) fn count_audited(&self, access: &str) {
        let label = access_label(access);
        self.access_audit.with_label_values(&[label]).inc();
    }

    /// A program that was refused.
    pub(crate) fn count_refused(&self, reason: Reason) {
        self.refused.with_label_values(&[reason.name()]).inc();
    }

    /// A program that these bindings mean.
    pub(crate) fn count_matches<'b>(&self, bindings: impl IntoIterator<Item = &'b str>) {
        for binding in bindings {
            self.binding_matches.with_label_values(&[binding]).inc();
        }
    }

    /// Bindings of `config` have series from here on, before one of them matches.
    pub(crate) fn add_bindings(&self, config: &Config) {
        for binding in &config.secrets {
            self.binding_matches.with_label_values(&[&binding.name]);
        }
    }

    /// Bindings of `before` that `config` has no more have no series any more.
    pub(crate) fn remove_bindings(&self, before: &Config, config: &Config) {
        let kept: BTreeSet<&str> = names(config).collect();
        for gone in names(before).filter(|name| !kept.contains(name)) {
            // (one that is not there is as good)
            let _ = self.binding_matches.remove_label_values(&[gone]);
        }
    }

    /// These system calls are watched from here on.
    pub(crate) fn add_calls<'c>(&self, calls: impl IntoIterator<Item = &'c str>) {
        for call in calls {
            for outcome in CALL_OUTCOMES {
                self.syscalls.with_label_values(&[call, outcome]);
            }
        }
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

fn names(config: &Config) -> impl Iterator<Item = &str> {
    config.secrets.iter().map(|binding| binding.name.as_str())
}

fn by(name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn config(bindings: &[&str]) -> Config {
        let bindings: Vec<String> = bindings
            .iter()
            .map(|name| {
                format!("  - {{name: {name}, selector: {{binary: {name}}}, secretRefs: [{{name: X, source: {{value: x}}}}]}}\n")
            })
            .collect();
        let text = format!("version: v1\nsecrets:\n{}", bindings.concat());
        parse(&text, Path::new("config.yaml")).unwrap()
    }

    fn ensure_has(metrics: &Metrics, line: &str, is_there: bool) {
        let text = metrics.text().unwrap();
        assert_eq!(
            text.lines().any(|found| found == line),
            is_there,
            "{line} in\n{text}"
        );
    }

    #[test]
    fn counters_before_anything_happened_are_zero_for_each_label() {
        let metrics = Metrics::new().unwrap();
        metrics.add_bindings(&config(&["shop"]));
        metrics.add_calls(["openat"]);
        for line in [
            "kernelseal_access_blocked_total{access=\"environ\"} 0",
            "kernelseal_access_blocked_total{access=\"secret_file\"} 0",
            "kernelseal_access_audit_total{access=\"ptrace\"} 0",
            "kernelseal_programs_refused_total{reason=\"other_file\"} 0",
            "kernelseal_events_dropped_total{lost_in=\"output\"} 0",
            "kernelseal_binding_matches_total{binding=\"shop\"} 0",
            "kernelseal_syscalls_total{outcome=\"failed\",syscall=\"openat\"} 0",
            "kernelseal_held_programs 0",
            "kernelseal_exec_to_release_seconds_bucket{le=\"30\"} 0",
        ] {
            ensure_has(&metrics, line, true);
        }
        let version = env!("CARGO_PKG_VERSION");
        let arch = std::env::consts::ARCH;
        let built = format!("kernelseal_build_info{{arch=\"{arch}\",version=\"{version}\"}} 1");
        ensure_has(&metrics, &built, true);
    }

    #[test]
    fn binding_matches_after_a_reload_has_the_new_bindings_and_not_the_old() {
        let metrics = Metrics::new().unwrap();
        let (before, now) = (config(&["shop", "bank"]), config(&["bank", "post"]));
        metrics.add_bindings(&before);
        metrics.count_matches(["bank"]);
        metrics.add_bindings(&now);
        metrics.remove_bindings(&before, &now);
        for (line, is_there) in [
            ("kernelseal_binding_matches_total{binding=\"bank\"} 1", true),
            ("kernelseal_binding_matches_total{binding=\"post\"} 0", true),
            (
                "kernelseal_binding_matches_total{binding=\"shop\"} 0",
                false,
            ),
        ] {
            ensure_has(&metrics, line, is_there);
        }
    }
}
