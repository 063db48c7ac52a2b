//! What is added to a pod, as the YAML a person would write: the container, its volumes, its mounts.
//!
//! The texts are the one source; their JSON is read from them.

use std::fmt::Write as _;

use serde_json::Value;

use super::{options::Options, tree};

/// Where applications find their secret files; theirs to mount where they cannot create it.
pub(super) const RUN: &str = "/run/kernelseal";
/// Where the kernel side is pinned.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// A variable of the sidecar's that records what was added along with it. Not an annotation: the pod's metadata
/// is its author's, and may be missing.
const ADDED: &str = "KERNELSEAL_INJECTED";
/// Where clients of the API look for who they are.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A piece of YAML that begins at column 0, without a line break at its end, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) value: Value,
}

impl Piece {
    /// Of our own text. A text that is no YAML would be a fault in this file, which the tests see.
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let value = tree::read(&text)
            .ok()
            .and_then(|documents| documents.first().map(tree::Node::to_json))
            .unwrap_or_default();
        Self {
            text: text.trim_end().to_owned(),
            value,
        }
    }

    /// A scalar that may need quotes.
    pub(super) fn quoted(text: &str) -> Self {
        Self {
            text: Value::from(text).to_string(),
            value: text.into(),
        }
    }
}

/// The default `AppArmor` profiles of container runtimes forbid mount and ptrace; Kubernetes before 1.30
/// knows no field to say so, only this annotation.
pub(super) fn old_apparmor(name: &str) -> String {
    format!("container.apparmor.security.beta.kubernetes.io/{name}")
}

/// Whether a container is an agent: it mounts the file system with the kernel side's pins, without which none works.
pub(super) fn is_ours(container: &Value) -> bool {
    let mounts = container["volumeMounts"].as_array();
    mounts
        .into_iter()
        .flatten()
        .any(|mount| mount["mountPath"] == BPFFS)
}

/// What a sidecar records that was added to the pod along with it.
pub(super) fn added_of(container: &Value) -> &str {
    let env = container["env"].as_array();
    env.into_iter()
        .flatten()
        .find(|variable| variable["name"] == ADDED)
        .and_then(|variable| variable["value"].as_str())
        .unwrap_or_default()
}

/// What kind of volume it is: its one key beside the name.
pub(super) fn volume_kind(volume: &Value) -> Option<&str> {
    let mut keys = volume.as_object()?.keys().map(String::as_str);
    keys.find(|key| *key != "name")
}

/// A list of one container. `added`: what it records of the pod.
pub(super) fn container(options: &Options, added: &str) -> Piece {
    let Options { name, image, .. } = options;
    // A name or image of digits alone would be read as a number.
    let (quoted_name, quoted_image) = (scalar(name), scalar(image));
    let mut text = format!("- name: {quoted_name}\n  image: {quoted_image}\n");
    if !options.older_cluster {
        text += "  restartPolicy: Always  # a native sidecar: up before the application, gone after it\n";
    }
    // A folder, not the file by `subPath`: that one would never change.
    text += "  args: [run, --config, /etc/kernelseal/config/config.yaml]
  env:
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
";
    if !added.is_empty() {
        let _ = writeln!(
            text,
            "    - {{name: {ADDED}, value: {}}}  # what uninject takes back",
            Value::from(added)
        );
    }
    let port = options.metrics_port;
    let _ = write!(
        text,
        "  ports:
    - {{name: kernelseal, containerPort: {port}}}
  startupProbe:
    httpGet: {{path: /ready, port: {port}}}
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe:
    httpGet: {{path: /healthz, port: {port}}}
    timeoutSeconds: 10  # a busy node is no reason to end it
  resources:
    requests: {{cpu: 10m, memory: 32Mi}}
    limits: {{memory: 96Mi}}  # the first agent on a node takes 37 MB while it loads the kernel side
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    readOnlyRootFilesystem: true
"
    );
    if !options.older_cluster {
        text += "    appArmorProfile: {type: Unconfined}  # the runtimes' default profiles forbid mount and ptrace\n";
    }
    text += "    capabilities:
      drop: [ALL]
      add:
        - SYS_ADMIN  # bpf(2), and the pins; make and move a tmpfs; enter a mount namespace
        - SYS_PTRACE  # attach to a held program, write its stack, look at its files and root
        - SYS_CHROOT  # setns(2) to a mount namespace asks for it, besides SYS_ADMIN
        - DAC_OVERRIDE  # a program's memory and secret files are another user's
        - CHOWN  # gives the secret files to the program's user
        - KILL  # releases or kills a held program of another user
        - IPC_LOCK  # keeps secrets in the agent's memory out of swap
        - SYS_RESOURCE  # a sealed program's limit on core dumps; before 5.11 maps count against RLIMIT_MEMLOCK
  volumeMounts:
";
    let _ = writeln!(
        text,
        "    - {{name: {name}-config, mountPath: /etc/kernelseal/config, readOnly: true}}
    - {{name: {name}-pod, mountPath: /etc/podinfo, readOnly: true}}  # the pod's labels, for selectors"
    );
    for (index, secret) in options.mount_secrets.iter().enumerate() {
        let _ = writeln!(
            text,
            "    - {{name: {name}-{index}, mountPath: /etc/kernelseal/secrets/{secret}, readOnly: true}}"
        );
    }
    if options.api_token {
        let _ = writeln!(
            text,
            "    - {{name: {name}-api, mountPath: {API_TOKEN}, readOnly: true}}  # who the agent is to the API"
        );
    }
    let _ = writeln!(
        text,
        "    - {{name: {name}-bpf, mountPath: {BPFFS}}}  # the kernel side, one for all agents of the node"
    );
    Piece::new(text)
}

/// Lists of one volume each: what the sidecar mounts, and, for applications, `run`.
pub(super) fn volumes(options: &Options, config_map: &str, run: bool) -> Vec<Piece> {
    let name = &options.name;
    let config_map = scalar(config_map);
    let mut texts = vec![format!(
        "- name: {name}-config\n  configMap: {{name: {config_map}}}"
    )];
    texts.push(format!(
        "- name: {name}-pod\n  downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}"
    ));
    for (index, secret) in options.mount_secrets.iter().enumerate() {
        let secret = scalar(secret);
        texts.push(format!(
            "- name: {name}-{index}\n  secret: {{secretName: {secret}}}"
        ));
    }
    if options.api_token {
        // As Kubernetes writes it into every container of a pod that does not say otherwise.
        texts.push(format!(
            "- name: {name}-api
  projected:
    sources:
      - serviceAccountToken: {{path: token}}
      - configMap: {{name: kube-root-ca.crt, items: [{{key: ca.crt, path: ca.crt}}]}}
      - downwardAPI: {{items: [{{path: namespace, fieldRef: {{fieldPath: metadata.namespace}}}}]}}"
        ));
    }
    texts.push(format!(
        "- name: {name}-bpf\n  hostPath: {{path: {BPFFS}, type: Directory}}"
    ));
    if run {
        texts.push(format!(
            "- name: {name}-run  # for applications with readOnlyRootFilesystem\n  emptyDir: {{medium: Memory, sizeLimit: 1Mi}}"
        ));
    }
    texts.into_iter().map(Piece::new).collect()
}

/// A list of the mount an application needs whose root file system is read-only.
pub(super) fn run_mount(options: &Options) -> Piece {
    let name = &options.name;
    Piece::new(format!("- {{name: {name}-run, mountPath: {RUN}}}"))
}

/// A name as YAML: in quotes, if it would not be text without.
fn scalar(name: &str) -> String {
    let plain = Piece::new(name);
    // YAML 1.1, which Kubernetes reads, knows more words and numbers than 1.2: those begin with a digit or are short.
    let is_safe = plain.value == name
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !matches!(name, "y" | "n" | "yes" | "no" | "on" | "off");
    if is_safe {
        name.to_owned()
    } else {
        Value::from(name).to_string()
    }
}
