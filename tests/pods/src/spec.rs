//! What the kubelet tells the runtime about a container of a pod.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::identity::Identity;
use crate::node::Node;
use crate::volumes::Volumes;
use crate::wire::{
    Capability, ContainerConfig, ContainerMetadata, HOST_TO_CONTAINER, ImageSpec, Int64Value,
    KeyValue, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    NamespaceOption, POD, SecurityProfile, UNCONFINED,
};

/// What the kubelet hides, and what it makes read-only, of `/proc` and `/sys`.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A container, for its start number `attempt`.
pub fn container(
    node: &Node,
    pod: &Identity,
    volumes: &Volumes,
    spec: &Value,
    attempt: u32,
) -> Result<ContainerConfig> {
    let name = spec["name"]
        .as_str()
        .context("a container without a name")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut envs = Vec::new();
    for variable in items(&spec["env"]) {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = match field.as_str() {
            Some(field) => pod.field(field)?,
            None => text(&variable["value"]),
        };
        let key = text(&variable["name"]);
        envs.push(KeyValue { key, value });
    }
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt,
        }),
        image: Some(ImageSpec {
            image: text(&spec["image"]),
        }),
        command: items(&spec["command"]).map(text).collect(),
        args: items(&spec["args"]).map(text).collect(),
        working_dir: text(&spec["workingDir"]),
        envs,
        mounts: mounts(node, pod, volumes, spec, name, attempt)?,
        labels: HashMap::from([
            ("io.kubernetes.container.name".into(), name.into()),
            ("io.kubernetes.pod.name".into(), pod.name.clone()),
            ("io.kubernetes.pod.namespace".into(), pod.namespace.clone()),
            ("io.kubernetes.pod.uid".into(), pod.uid.clone()),
        ]),
        log_path: format!("{name}/{attempt}.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&spec["resources"])?),
            security_context: Some(security(&spec["securityContext"])?),
        }),
    })
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn mounts(
    node: &Node,
    pod: &Identity,
    volumes: &Volumes,
    spec: &Value,
    name: &str,
    attempt: u32,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for mount in items(&spec["volumeMounts"]) {
        let volume = mount["name"].as_str().context("a mount without a name")?;
        let mut host = volumes.place(volume)?.to_owned();
        if let Some(part) = mount["subPath"].as_str() {
            // The file as it is now, past the links: it does not follow a change.
            host = fs::canonicalize(host.join(part))?;
        }
        mounts.push(Mount {
            container_path: mount["mountPath"].as_str().context("no mountPath")?.into(),
            host_path: node.inside(&host)?,
            readonly: mount["readOnly"] == true,
            propagation: match mount["mountPropagation"].as_str() {
                None => 0,
                Some("HostToContainer") => HOST_TO_CONTAINER,
                Some(other) => bail!("mountPropagation {other} is not known here"),
            },
        });
    }
    // The file for last words, by which kernelseal tells the container's name.
    let folder = format!("/var/lib/kubelet/pods/{}/containers/{name}", pod.uid);
    fs::create_dir_all(node.path(&folder))?;
    let host_path = format!("{folder}/{attempt:08x}");
    fs::write(node.path(&host_path), "")?;
    mounts.push(Mount {
        container_path: "/dev/termination-log".into(),
        host_path,
        ..Mount::default()
    });
    Ok(mounts)
}

fn resources(spec: &Value) -> Result<LinuxContainerResources> {
    let memory_limit_in_bytes = match spec["limits"]["memory"].as_str() {
        None => 0,
        Some(text) => {
            let megabytes = text.strip_suffix("Mi").context("a limit not in Mi")?;
            megabytes.parse::<i64>()? << 20
        }
    };
    Ok(LinuxContainerResources {
        cpu_shares: 2,
        memory_limit_in_bytes,
    })
}

fn security(spec: &Value) -> Result<LinuxContainerSecurityContext> {
    ensure!(spec["privileged"] != true, "nothing here is privileged");
    let names = |list: &Value| -> Vec<String> {
        items(list)
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let id = |value: &Value| value.as_i64().map(|value| Int64Value { value });
    let owned = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    let default_profile = spec["seccompProfile"]["type"] == "RuntimeDefault";
    // Kubernetes says that neither goes with `allowPrivilegeEscalation: false`.
    let escalates = spec["allowPrivilegeEscalation"] != false;
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: names(&spec["capabilities"]["add"]),
            drop_capabilities: names(&spec["capabilities"]["drop"]),
        }),
        privileged: false,
        namespace_options: Some(namespaces()),
        run_as_user: id(&spec["runAsUser"]),
        run_as_group: id(&spec["runAsGroup"]),
        readonly_rootfs: spec["readOnlyRootFilesystem"] == true,
        no_new_privs: !escalates,
        masked_paths: owned(&MASKED),
        readonly_paths: owned(&READ_ONLY),
        seccomp: Some(SecurityProfile {
            profile_type: if default_profile { 0 } else { UNCONFINED },
        }),
    })
}

/// One PID namespace for the pod (`shareProcessNamespace`); network and IPC are always shared.
pub fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: POD,
        pid: POD,
        ipc: POD,
    }
}
