//! What a pod lacks to have the sidecar: decided on its JSON alone, for `inject` and the webhook alike.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::{
    edit::Edit,
    options::{self, Options},
    sidecar::{self, Piece, RUN},
};

/// On a pod, as label or annotation: "false" keeps the sidecar away. The webhook is asked by the label "true".
pub(crate) const INJECT: &str = "kernelseal.io/inject";
/// On a pod: the `ConfigMap` with its configuration.
const CONFIG_MAP: &str = "kernelseal.io/config-map";
/// What `kubectl logs` and `exec` mean when they name no container.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The edits, in an order in which they may be carried out, and what the user should know.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    pub(super) notes: Vec<Remark>,
}

/// Something about a place in the pod: a reason against the sidecar, or a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) at: PointerBuf,
    pub(super) message: String,
    pub(super) help: String,
}

/// Plans for a pod, or a pod's template. The error is why it cannot have the sidecar.
pub(super) fn plan(pod: &Value, options: &Options) -> Result<Plan, Remark> {
    let mut plan = Plan::default();
    if declines(pod) {
        return Ok(plan);
    }
    fits(pod, options)?;
    let config_map = config_map(pod, options)?;
    let (edits, notes) = (&mut plan.edits, &mut plan.notes);
    let spec = &pod["spec"];

    let mut mounts_run = false;
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            if container["name"] == options.name.as_str() {
                continue;
            }
            mounts_run |= mount_run(
                container,
                options,
                &pointer(&["spec", list, &index.to_string()]),
                edits,
            );
        }
    }
    if spec["shareProcessNamespace"].is_null() {
        edits.push(entry(
            &["spec"],
            "shareProcessNamespace",
            Piece::new("true"),
        ));
    }
    let wanted = sidecar::container(options);
    match present(spec, options) {
        Some((at, container)) if *container != wanted.value[0] => notes.push(remark(
            at,
            &format!(
                "the container {} is there already and differs from what would be added; it is left as it is",
                options.name
            ),
            "to have it anew, remove it; for another name, use --name",
        )),
        Some(_) => {}
        None => {
            let list = if options.older_cluster { "containers" } else { "initContainers" };
            add(spec, list, true, vec![wanted], edits);
        }
    }
    let volumes = sidecar::volumes(options, &config_map, mounts_run)
        .into_iter()
        .filter(|volume| {
            !items(&spec["volumes"]).any(|there| there["name"] == volume.value[0]["name"])
        })
        .collect();
    add(spec, "volumes", false, volumes, edits);
    if options.older_cluster {
        annotate(pod, options, edits);
    }
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
    Ok(plan)
}

/// Whether the pod says that it wants no sidecar.
pub(super) fn declines(pod: &Value) -> bool {
    let says = |field: &str| pod["metadata"][field][INJECT] == "false";
    says("labels") || says("annotations")
}

/// Shapes first, then what the sidecar cannot live with.
fn fits(pod: &Value, options: &Options) -> Result<(), Remark> {
    let spec = &pod["spec"];
    if !spec.is_object() {
        return Err(shape(&["spec"], "no pod without a spec", "a mapping"));
    }
    for (list, needed) in [
        ("containers", true),
        ("initContainers", false),
        ("volumes", false),
    ] {
        let value = &spec[list];
        let fits = match value {
            Value::Array(items) => {
                items.iter().all(Value::is_object) && !(needed && items.is_empty())
            }
            Value::Null => !needed,
            _ => false,
        };
        if !fits {
            return Err(shape(
                &["spec", list],
                &format!("{list} is not a list of mappings"),
                "a list",
            ));
        }
    }
    match &spec["shareProcessNamespace"] {
        Value::Null | Value::Bool(true) => {}
        Value::Bool(false) => {
            return Err(remark(
                pointer(&["spec", "shareProcessNamespace"]),
                "the pod asks for separate process namespaces, in which the sidecar sees no program of the application",
                &format!(
                    "remove the line, or keep the sidecar away with the annotation {INJECT}: \"false\" on the pod"
                ),
            ));
        }
        _ => {
            return Err(shape(
                &["spec", "shareProcessNamespace"],
                "neither true nor false",
                "true",
            ));
        }
    }
    if spec["hostPID"] == true {
        return Err(remark(
            pointer(&["spec", "hostPID"]),
            "the pod lives in the node's process namespace, and a sidecar in it would answer for the whole node",
            &format!(
                "use deploy/daemonset.yaml for the node, and the annotation {INJECT}: \"false\" on this pod"
            ),
        ));
    }
    if spec["os"]["name"] == "windows" {
        let help = format!("set the annotation {INJECT}: \"false\" on the pod");
        return Err(remark(
            pointer(&["spec", "os", "name"]),
            "a pod for Windows: kernelseal needs Linux",
            &help,
        ));
    }
    free_port(spec, options)
}

/// The containers of a pod share its ports.
fn free_port(spec: &Value, options: &Options) -> Result<(), Remark> {
    let metrics = options.metrics_port;
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            // An ordinary init container has ended before anything else listens.
            let lives_on = list == "containers" || container["restartPolicy"] == "Always";
            if container["name"] == options.name.as_str() || !lives_on {
                continue;
            }
            for (port_index, port) in items(&container["ports"]).enumerate() {
                let is_tcp = port["protocol"].is_null() || port["protocol"] == "TCP";
                if is_tcp && port["containerPort"] == metrics {
                    let (index, port_index) = (index.to_string(), port_index.to_string());
                    return Err(remark(
                        pointer(&["spec", list, &index, "ports", &port_index, "containerPort"]),
                        &format!(
                            "another container listens on {metrics}, the sidecar's port for metrics and probes"
                        ),
                        "choose another with --metrics-port, and monitoring.metricsPort in the configuration",
                    ));
                }
            }
        }
    }
    Ok(())
}

fn config_map(pod: &Value, options: &Options) -> Result<String, Remark> {
    match &pod["metadata"]["annotations"][CONFIG_MAP] {
        Value::Null => Ok(options.config_map.clone()),
        Value::String(name) if options::config_map(name).is_ok() => Ok(name.clone()),
        _ => Err(remark(
            pointer(&["metadata", "annotations", CONFIG_MAP]),
            "not the name of a ConfigMap",
            "small letters, digits, `-` and `.` between them",
        )),
    }
}

/// The container of our name, wherever it is.
fn present<'a>(spec: &'a Value, options: &Options) -> Option<(PointerBuf, &'a Value)> {
    ["initContainers", "containers"]
        .into_iter()
        .find_map(|list| {
            let mut containers = items(&spec[list]).enumerate();
            let (index, found) =
                containers.find(|(_, container)| container["name"] == options.name.as_str())?;
            Some((pointer(&["spec", list, &index.to_string()]), found))
        })
}

/// Secret files need a place. Where the root file system is read-only and nobody mounted one, a shared volume is it.
fn mount_run(container: &Value, options: &Options, at: &PointerBuf, edits: &mut Vec<Edit>) -> bool {
    let mounts = &container["volumeMounts"];
    let own = format!("{}-run", options.name);
    if items(mounts).any(|mount| mount["name"] == own.as_str()) {
        return true;
    }
    let is_read_only = container["securityContext"]["readOnlyRootFilesystem"] == true;
    if !is_read_only || items(mounts).any(|mount| mount["mountPath"] == RUN) {
        return false;
    }
    edits.push(if items(mounts).next().is_some() {
        Edit::Items {
            list: at.concat(&pointer(&["volumeMounts"])),
            front: false,
            items: sidecar::run_mount(options),
        }
    } else {
        Edit::Entry {
            map: at.clone(),
            key: "volumeMounts".into(),
            value: sidecar::run_mount(options),
        }
    });
    true
}

/// Adds to a list in the specification, or makes it. The pieces are lists.
fn add(spec: &Value, list: &str, front: bool, pieces: Vec<Piece>, edits: &mut Vec<Edit>) {
    let Some(all) = pieces.into_iter().reduce(joined) else {
        return;
    };
    edits.push(if items(&spec[list]).next().is_some() {
        Edit::Items {
            list: pointer(&["spec", list]),
            front,
            items: all,
        }
    } else {
        entry(&["spec"], list, all)
    });
}

fn joined(mut one: Piece, other: Piece) -> Piece {
    one.text = format!("{}\n{}", one.text, other.text);
    if let (Value::Array(items), Value::Array(more)) = (&mut one.value, other.value) {
        items.extend(more);
    }
    one
}

/// Without native sidecars there is no `appArmorProfile` either. And `kubectl logs` should go on to mean the
/// application, though ours is the first container now.
fn annotate(pod: &Value, options: &Options, edits: &mut Vec<Edit>) {
    let mut wanted = vec![(sidecar::old_apparmor(options), "unconfined".to_owned())];
    let first = items(&pod["spec"]["containers"])
        .filter_map(|container| container["name"].as_str())
        .find(|name| *name != options.name);
    if let Some(name) = first {
        wanted.push((DEFAULT_CONTAINER.to_owned(), name.to_owned()));
    }
    let annotations = &pod["metadata"]["annotations"];
    wanted.retain(|(key, _)| annotations[key].is_null());
    if wanted.is_empty() {
        return;
    }
    if annotations
        .as_object()
        .is_some_and(|there| !there.is_empty())
    {
        edits.extend(
            wanted
                .iter()
                .map(|(key, value)| entry(&["metadata", "annotations"], key, Piece::quoted(value))),
        );
        return;
    }
    let lines: Vec<_> = wanted
        .iter()
        .map(|(key, value)| format!("{key}: {}", Value::from(value.as_str())))
        .collect();
    let annotations = lines.join("\n");
    if pod["metadata"]
        .as_object()
        .is_some_and(|there| !there.is_empty())
    {
        edits.push(entry(&["metadata"], "annotations", Piece::new(annotations)));
    } else {
        let metadata = format!("annotations:\n  {}", annotations.replace('\n', "\n  "));
        edits.push(entry(&[], "metadata", Piece::new(metadata)));
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn entry(map: &[&str], key: &str, value: Piece) -> Edit {
    Edit::Entry {
        map: pointer(map),
        key: key.to_owned(),
        value,
    }
}

fn shape(at: &[&str], message: &str, wanted: &str) -> Remark {
    remark(pointer(at), message, &format!("a pod has {wanted} here"))
}

fn remark(at: PointerBuf, message: &str, help: &str) -> Remark {
    Remark {
        at,
        message: message.to_owned(),
        help: help.to_owned(),
    }
}
