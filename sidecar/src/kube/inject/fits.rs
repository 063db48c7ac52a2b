//! Whether a pod can have the sidecar: shapes first, then what the sidecar cannot live with.

use serde_json::Value;

use super::{
    options::{self, Options},
    plan::{CONFIG_MAP, INJECT, Remark, items, pointer, remark},
    sidecar,
    surroundings::Surroundings,
};

/// Runtimes in which a program's system calls do not reach the node's kernel: a word of what their classes and handlers
/// are called (`kata-qemu`, `io.containerd.runsc.v1`), and what they are.
const SANDBOXES: [(&str, &str); 9] = [
    ("gvisor", "gVisor"),
    ("runsc", "gVisor"),
    ("kata", "Kata Containers"),
    ("katacontainers", "Kata Containers"),
    ("firecracker", "Firecracker"),
    ("wasm", "WebAssembly"),
    ("wasmtime", "WebAssembly"),
    ("wasmedge", "WebAssembly"),
    ("spin", "WebAssembly"),
];
/// On a node, and in what selects one: its operating system. The second name is the one before Kubernetes 1.14.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// Why a pod cannot have the sidecar, if it cannot.
pub(super) fn check(
    pod: &Value,
    options: &Options,
    surroundings: &Surroundings,
) -> Result<(), Remark> {
    let spec = &pod["spec"];
    shapes(spec)?;
    processes(spec)?;
    windows(spec)?;
    kernel(spec, surroundings)?;
    foreign_container(spec, options)?;
    foreign_volume(spec, options, &config_map(pod, options)?)?;
    free_port(spec, options)
}

/// The `ConfigMap` that a pod's sidecar reads.
pub(super) fn config_map(pod: &Value, options: &Options) -> Result<String, Remark> {
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

fn shapes(spec: &Value) -> Result<(), Remark> {
    if !spec.is_object() {
        return Err(shape(&["spec"], "no pod without a spec", "a mapping"));
    }
    for (list, needed) in [
        ("containers", true),
        ("initContainers", false),
        ("volumes", false),
    ] {
        let fits = match &spec[list] {
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
    Ok(())
}

/// The sidecar must see the application's processes, and no others.
fn processes(spec: &Value) -> Result<(), Remark> {
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
    Ok(())
}

fn windows(spec: &Value) -> Result<(), Remark> {
    let told = |at: &[&str]| {
        let help = format!("set the annotation {INJECT}: \"false\" on the pod");
        Err(remark(
            pointer(at),
            "a pod for Windows: kernelseal needs Linux",
            &help,
        ))
    };
    if spec["os"]["name"] == "windows" {
        return told(&["spec", "os", "name"]);
    }
    for label in OS_LABELS {
        if spec["nodeSelector"][label] == "windows" {
            return told(&["spec", "nodeSelector", label]);
        }
    }
    // Any one of the terms is enough for a node, so all of them must ask for Windows.
    let required = [
        "spec",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
    ];
    let affinity = &spec["affinity"]["nodeAffinity"][required[3]];
    let mut terms = items(&affinity["nodeSelectorTerms"]).peekable();
    let wants_windows = |term: &Value| {
        items(&term["matchExpressions"]).any(|rule| {
            OS_LABELS.iter().any(|label| rule["key"] == **label)
                && rule["operator"] == "In"
                && rule["values"].as_array().is_some_and(|values| {
                    !values.is_empty() && values.iter().all(|value| value == "windows")
                })
        })
    };
    if terms.peek().is_some() && terms.all(wants_windows) {
        return told(&required);
    }
    Ok(())
}

/// The application's programs must run on the kernel that the sidecar loads its hooks into, and the sidecar must be
/// allowed to load them.
fn kernel(spec: &Value, surroundings: &Surroundings) -> Result<(), Remark> {
    if spec["hostUsers"] == false {
        return Err(remark(
            pointer(&["spec", "hostUsers"]),
            "the pod has a user namespace of its own, in which nobody may load kernel programs: the sidecar could not guard anything",
            &format!(
                "remove the line, or keep the sidecar away with the annotation {INJECT}: \"false\" on the pod"
            ),
        ));
    }
    let class = spec["runtimeClassName"].as_str().unwrap_or_default();
    let handler = surroundings.handler(class).to_ascii_lowercase();
    let mut words = handler.split(|c: char| !c.is_ascii_alphanumeric());
    let Some((_, sandbox)) =
        words.find_map(|word| SANDBOXES.iter().find(|(name, _)| *name == word))
    else {
        return Ok(());
    };
    Err(remark(
        pointer(&["spec", "runtimeClassName"]),
        &format!(
            "the pod runs in {sandbox}, whose programs do not run on the node's kernel: the sidecar could guard nothing there"
        ),
        &format!(
            "remove the line, or keep the sidecar away with the annotation {INJECT}: \"false\" on the pod"
        ),
    ))
}

/// A container of our name that is none of ours would be taken for the sidecar.
fn foreign_container(spec: &Value, options: &Options) -> Result<(), Remark> {
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            if container["name"] == options.name.as_str() && !sidecar::is_ours(container) {
                return Err(remark(
                    pointer(&["spec", list, &index.to_string(), "name"]),
                    &format!(
                        "another container has the sidecar's name, {}: it does not mount {}, so it is no agent",
                        options.name,
                        sidecar::BPFFS
                    ),
                    "rename it, or name the sidecar otherwise with --name",
                ));
            }
        }
    }
    Ok(())
}

/// A volume of a name of ours must be what the sidecar takes it for.
fn foreign_volume(spec: &Value, options: &Options, config_map: &str) -> Result<(), Remark> {
    for wanted in sidecar::volumes(options, config_map, true) {
        let wanted = &wanted.value[0];
        let mut there = items(&spec["volumes"]).enumerate();
        let Some((index, found)) = there.find(|(_, volume)| volume["name"] == wanted["name"])
        else {
            continue;
        };
        if sidecar::volume_kind(found) != sidecar::volume_kind(wanted) {
            let (name, kind) = (
                wanted["name"].as_str().unwrap_or_default(),
                sidecar::volume_kind(wanted).unwrap_or_default(),
            );
            return Err(remark(
                pointer(&["spec", "volumes", &index.to_string(), "name"]),
                &format!(
                    "another volume has the name of one of the sidecar's, {name}, which is a {kind}"
                ),
                "rename it, or name the sidecar otherwise with --name: its volumes' names begin with that",
            ));
        }
    }
    Ok(())
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

fn shape(at: &[&str], message: &str, wanted: &str) -> Remark {
    remark(pointer(at), message, &format!("a pod has {wanted} here"))
}
