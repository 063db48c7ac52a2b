//! What the user should know of a pod that can have the sidecar.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    options::Options,
    plan::{Remark, items, pointer, remark},
    surroundings::Surroundings,
};

/// Notes about a pod.
pub(super) fn about(
    pod: &Value,
    options: &Options,
    surroundings: &Surroundings,
    config_map: &str,
) -> Vec<Remark> {
    let spec = &pod["spec"];
    let mut notes = Vec::new();
    if options.api_token && spec["automountServiceAccountToken"] != false {
        notes.push(remark(
            pointer(&["spec"]),
            "every container of the pod may get a token of its service account, and with it what the sidecar reads",
            "set automountServiceAccountToken: false in the pod, or in its ServiceAccount",
        ));
    }
    if spec["hostNetwork"] == true {
        notes.push(remark(
            pointer(&["spec", "hostNetwork"]),
            &format!("the pod is on the node's network: so is the sidecar's port {}", options.metrics_port),
            "give each such pod of a node a port of its own: --metrics-port, and monitoring.metricsPort in its configuration",
        ));
    }
    let mut ours: BTreeSet<&str> = options.mount_secrets.iter().map(String::as_str).collect();
    let configured = surroundings.secrets_of(config_map);
    ours.extend(configured.into_iter().flatten().map(String::as_str));
    // Where neither says which Secrets the sidecar delivers, each may be one of them.
    let is_known = configured.is_some() || !ours.is_empty();
    notes.extend(still_in_environment(spec, options, |secret| {
        !is_known || ours.contains(secret)
    }));
    notes
}

/// Containers that have a Secret in their environment by `env` or `envFrom`, for everybody in them to read.
fn still_in_environment(
    spec: &Value,
    options: &Options,
    concerns: impl Fn(&str) -> bool,
) -> Vec<Remark> {
    let mut notes = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            if container["name"] == options.name.as_str() {
                continue;
            }
            let sources = items(&container["env"])
                .map(|variable| ("env", &variable["valueFrom"]["secretKeyRef"]["name"]))
                .enumerate();
            let more = items(&container["envFrom"])
                .map(|source| ("envFrom", &source["secretRef"]["name"]))
                .enumerate();
            for (place, (key, secret)) in sources.chain(more) {
                let Some(secret) = secret.as_str().filter(|name| concerns(name)) else {
                    continue;
                };
                let message = if super::options::config_map(secret).is_ok() {
                    format!(
                        "the container still has the Secret {secret} by {key}: every program in it reads that"
                    )
                } else {
                    format!(
                        "the container still has a Secret by {key}: every program in it reads that"
                    )
                };
                notes.push(remark(
                    pointer(&["spec", list, &index.to_string(), key, &place.to_string()]),
                    &message,
                    "remove it here, if the sidecar's configuration delivers that Secret",
                ));
            }
        }
    }
    notes
}
