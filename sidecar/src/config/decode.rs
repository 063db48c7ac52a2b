//! From the tree to the model: the top level, `policy` and `monitoring`.

use std::{path::PathBuf, time::Duration};

use super::{
    binding::Binding,
    decode_binding, decode_network, decode_syscalls, decode_vault,
    fields::{Fields, Report, quoted},
    keys, model,
    model::{Config, LogFormat, LogLevel, Mode, Monitoring, OnFailure, Policy, Version},
    network::Network,
    syscalls::Syscalls,
    validate,
    yaml::{Kind, Node, Scalar},
};

/// Limits of `holdTimeout`.
const HOLD_TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_mins(5);

/// The configuration, or `None` if the report says why not. Some errors leave a configuration.
pub(super) fn config(report: &mut Report, root: &Node) -> Option<Config> {
    if let Some(kind) = manifest_kind(root) {
        let hint = if kind == "ConfigMap" {
            "the configuration is the text under `data:`, of the key `config.yaml`: validate that text by itself"
        } else {
            "a configuration begins with `version: v1`; in Kubernetes it is the value of a ConfigMap's key `config.yaml`"
        };
        let message = format!("a manifest of Kubernetes (kind {kind}), not a configuration");
        report.error(&root.mark, message, hint);
        return None;
    }
    let top = Fields::open(report, root, &keys::TOP)?;
    let version = top
        .require(report, "version")
        .and_then(|node| version(report, node));
    let policy = top
        .get("policy")
        .map_or_else(|| Some(Policy::default()), |node| policy(report, node));
    let monitoring = top.get("monitoring").map_or_else(
        || Some(Monitoring::default()),
        |node| monitoring(report, node),
    );
    let secrets = match top.get("secrets") {
        // `secrets:` with every binding commented out is an empty list.
        Some(node) if node.scalar() != Some(Scalar::Null) => bindings(report, node),
        _ => Vec::new(),
    };
    let secrets_dir = top.get("secretsDir").map_or_else(
        || Some(PathBuf::from(model::DEFAULT_SECRETS_DIR)),
        |node| absolute_path(report, node, "secretsDir"),
    );
    let vault = match top.get("vault") {
        Some(node) => decode_vault::vault(report, node).map(Some),
        None => Some(None),
    };
    Some(Config {
        version: version?,
        policy: policy?,
        secrets,
        monitoring: monitoring?,
        secrets_dir: secrets_dir?,
        vault: vault?,
    })
}

/// Of a manifest of Kubernetes, its kind; "unknown" where that is none.
fn manifest_kind(root: &Node) -> Option<&str> {
    let Kind::Map(entries) = &root.kind else {
        return None;
    };
    let find = |name: &str| {
        let mut entries = entries.iter();
        entries.find_map(|(key, value)| (key.raw() == name).then_some(value))
    };
    let (_, kind) = find("apiVersion").zip(find("kind"))?;
    let is_kind = |kind: &str| {
        !kind.is_empty()
            && kind.len() <= validate::MAX_KIND
            && kind.chars().all(|c| c.is_ascii_alphabetic())
    };
    Some(kind.raw()).map(|kind| if is_kind(kind) { kind } else { "unknown" })
}

fn version(report: &mut Report, node: &Node) -> Option<Version> {
    if node.raw() == "v1" {
        return Some(Version::V1);
    }
    let message = match node.scalar() {
        Some(Scalar::Text(text) | Scalar::Number(text)) => {
            format!("version {} is not known", quoted(text))
        }
        _ => format!("version must be text, not {}", node.describe()),
    };
    report.error(&node.mark, message, "write `version: v1`");
    None
}

fn policy(report: &mut Report, node: &Node) -> Option<Policy> {
    let fields = Fields::open(report, node, &keys::POLICY)?;
    let default = Policy::default();
    let mut flag = |key, default| {
        fields
            .get(key)
            .map_or(Some(default), |node| report.boolean(node, key))
    };
    let block_environ = flag("blockEnviron", default.block_environ);
    let block_mem = flag("blockMem", default.block_mem);
    let block_maps = flag("blockMaps", default.block_maps);
    let block_ptrace = flag("blockPtrace", default.block_ptrace);
    let allow_self_read = flag("allowSelfRead", default.allow_self_read);
    let audit_all = flag("auditAll", default.audit_all);
    let kernel_binary_filter = flag("kernelBinaryFilter", default.kernel_binary_filter);
    let modes = [
        ("disabled", Mode::Disabled),
        ("audit", Mode::Audit),
        ("enforce", Mode::Enforce),
    ];
    let mode = choice(report, &fields, "mode", &modes);
    let on_failure = [("deny", OnFailure::Deny), ("allow", OnFailure::Allow)];
    let on_failure = choice(report, &fields, "onFailure", &on_failure);
    let hold_timeout = fields
        .get("holdTimeout")
        .map_or(Some(default.hold_timeout), |node| {
            hold_timeout(report, node)
        });
    Some(Policy {
        mode: mode?,
        block_environ: block_environ?,
        block_mem: block_mem?,
        block_maps: block_maps?,
        block_ptrace: block_ptrace?,
        allow_self_read: allow_self_read?,
        audit_all: audit_all?,
        kernel_binary_filter: kernel_binary_filter?,
        on_failure: on_failure?,
        hold_timeout: hold_timeout?,
    })
}

fn monitoring(report: &mut Report, node: &Node) -> Option<Monitoring> {
    let fields = Fields::open(report, node, &keys::MONITORING)?;
    let default = Monitoring::default();
    let enabled = fields.get("enabled").map_or(Some(default.enabled), |node| {
        report.boolean(node, "enabled")
    });
    let metrics_port = fields
        .get("metricsPort")
        .map_or(Some(default.metrics_port), |node| {
            let port = report.number(node, "metricsPort", u16::MAX.into())?;
            u16::try_from(port).ok()
        });
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let log_level = choice(report, &fields, "logLevel", &levels);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log_format = choice(report, &fields, "logFormat", &formats);
    let audit_log = match fields.get("auditLog") {
        Some(node) => Some(absolute_path(report, node, "auditLog")?),
        None => None,
    };
    let network = match fields.get("network") {
        Some(node) => decode_network::network(report, node),
        None => Some(Network::default()),
    };
    let syscalls = match fields.get("syscalls") {
        Some(node) => decode_syscalls::syscalls(report, node),
        None => Some(Syscalls::default()),
    };
    Some(Monitoring {
        enabled: enabled?,
        metrics_port: metrics_port?,
        log_level: log_level?,
        log_format: log_format?,
        audit_log,
        network: network?,
        syscalls: syscalls?,
    })
}

/// Those bindings that are whole; the report has the others.
fn bindings(report: &mut Report, node: &Node) -> Vec<Binding> {
    let items = report.list(node, "secrets").unwrap_or_default();
    if let Some(node) = items.get(validate::MAX_BINDINGS) {
        let message = format!("more than {} bindings", validate::MAX_BINDINGS);
        report.error(&node.mark, message, "give several secrets to one binding");
    }
    items
        .iter()
        .take(validate::MAX_BINDINGS)
        .filter_map(|item| decode_binding::binding(report, item))
        .collect()
}

pub(super) fn choice<T: Copy + Default>(
    report: &mut Report,
    fields: &Fields,
    key: &'static str,
    words: &[(&str, T)],
) -> Option<T> {
    fields
        .get(key)
        .map_or(Some(T::default()), |node| report.choice(node, key, words))
}

/// An absolute path, without `..` or anything else that needs resolving.
pub(super) fn absolute_path(report: &mut Report, node: &Node, what: &str) -> Option<PathBuf> {
    let text = report.text(node, what)?;
    if let Err(why) = validate::absolute_path(text) {
        report.error(
            &node.mark,
            format!("{what} {why}"),
            "write the path in full, from `/`",
        );
        return None;
    }
    Some(PathBuf::from(text))
}

fn hold_timeout(report: &mut Report, node: &Node) -> Option<Duration> {
    let hint = "write a number and a unit: `500ms`, `5s`, `1m`";
    let duration = match node.scalar() {
        Some(Scalar::Text(text)) => duration(text),
        _ => None,
    };
    let message = match duration {
        Some(duration) if HOLD_TIMEOUT.contains(&duration) => return Some(duration),
        Some(_) => "holdTimeout is out of range: it is from 100ms to 5m",
        None if matches!(node.scalar(), Some(Scalar::Number(_))) => "holdTimeout lacks its unit",
        None => "holdTimeout is not a duration",
    };
    report.error(&node.mark, message, hint);
    None
}

/// Reads `500ms`, `5s` or `1m`; also what is out of range, to say so.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}
