//! What a configuration *is* once it has been checked: plain types that hold only what is legal.
//!
//! The documentation comments here are also the descriptions in the JSON Schema, so they speak to
//! the person who writes the file. None of these types implements `Deserialize`: the one way to
//! get a [`Config`] is [`super::parse`], which checks it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{binding::Binding, network::Network, schema, syscalls::Syscalls, vault::Vault};

/// Where mounted Kubernetes Secrets are looked for when `secretsDir` is not given.
pub const DEFAULT_SECRETS_DIR: &str = "/etc/kernelseal/secrets";

/// The configuration of kernelseal, read from `/etc/kernelseal/config.yaml`.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields, title = "kernelseal")]
pub struct Config {
    /// The version of this file's format.
    pub version: Version,
    /// What is blocked, and how strictly.
    #[schemars(default)]
    pub policy: Policy,
    /// Which programs get which secrets. At most 1000 bindings.
    #[schemars(default, with = "Option<Vec<Binding>>", length(max = 1000))]
    #[schemars(extend("x-null-is-empty" = true))]
    pub secrets: Vec<Binding>,
    /// What kernelseal tells about itself.
    #[schemars(default)]
    pub monitoring: Monitoring,
    /// Where mounted Kubernetes Secrets lie, as `<dir>/<namespace>/<name>/<key>` or
    /// `<dir>/<name>/<key>`. An absolute path.
    #[schemars(default = "default_secrets_dir", regex(pattern = "^/"))]
    pub secrets_dir: PathBuf,
    /// The Vault server that `vaultRef` reads from. Without it there is none.
    pub vault: Option<Vault>,
}

impl Config {
    /// The bindings of programs that are executed by that name.
    pub(crate) fn named<'c>(&'c self, basename: &[u8]) -> impl Iterator<Item = &'c Binding> {
        let bindings = self.secrets.iter();
        bindings.filter(move |binding| binding.selector.basename().as_bytes() == basename)
    }
}

/// The version of the file's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Version {
    /// The only one so far.
    #[default]
    V1,
}

/// What is blocked, and how strictly.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of its own in the file"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether accesses to sealed programs are ignored, logged, or blocked and logged.
    pub mode: Mode,
    /// Block `/proc/<pid>/environ`.
    pub block_environ: bool,
    /// Block `/proc/<pid>/mem`, `process_vm_readv` and `process_vm_writev`.
    pub block_mem: bool,
    /// Block `maps`, `smaps`, `smaps_rollup`, `numa_maps`, `pagemap` and `map_files`.
    pub block_maps: bool,
    /// Block ptrace attach in every form.
    pub block_ptrace: bool,
    /// Let a sealed program, and its own sealed children, read themselves.
    pub allow_self_read: bool,
    /// Log accesses that are allowed, too.
    pub audit_all: bool,
    /// Look only at programs named in a binding. `false` reports every program started on the
    /// node, which is meant for development.
    pub kernel_binary_filter: bool,
    /// What happens to a held program whose secrets cannot be delivered.
    pub on_failure: OnFailure,
    /// How long a program may be held while its secrets are fetched: a number and `ms`, `s` or
    /// `m`, from 100ms to 5m.
    #[serde(serialize_with = "duration_as_text")]
    #[schemars(with = "String", regex(pattern = "^[0-9]+(ms|s|m)$"))]
    pub hold_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            block_environ: true,
            block_mem: true,
            block_maps: false,
            block_ptrace: true,
            allow_self_read: true,
            audit_all: false,
            kernel_binary_filter: true,
            on_failure: OnFailure::default(),
            hold_timeout: Duration::from_secs(5),
        }
    }
}

/// How strictly sealed programs are guarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Guard nothing.
    Disabled,
    /// Log accesses and allow them.
    Audit,
    /// Block accesses and log them.
    #[default]
    Enforce,
}

impl Mode {
    /// As the configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// What happens to a held program whose secrets cannot be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It does not start.
    #[default]
    Deny,
    /// It starts without its secrets.
    Allow,
}

/// What kernelseal tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default, deny_unknown_fields)]
pub struct Monitoring {
    /// Whether metrics, health and readiness are served over HTTP.
    pub enabled: bool,
    /// The port they are served on. 0 turns them off.
    pub metrics_port: u16,
    /// How much is logged. Never silences events.
    pub log_level: LogLevel,
    /// How the log looks.
    pub log_format: LogFormat,
    /// A file to which events are also appended. An absolute path.
    #[schemars(regex(pattern = "^/"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<PathBuf>,
    /// Who connects to whom.
    pub network: Network,
    /// What programs ask of the kernel.
    pub syscalls: Syscalls,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            enabled: true,
            metrics_port: 9090,
            log_level: LogLevel::default(),
            log_format: LogFormat::default(),
            audit_log: None,
            network: Network::default(),
            syscalls: Syscalls::default(),
        }
    }
}

/// How much is logged, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn default_secrets_dir() -> &'static Path {
    Path::new(DEFAULT_SECRETS_DIR)
}

fn duration_as_text<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&schema::duration_text(*duration))
}
