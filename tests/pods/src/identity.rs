//! Who a pod is, and what the runtime is told of it as a whole.

use std::collections::HashMap;

use anyhow::{Result, bail};

use crate::spec;
use crate::wire::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata,
};

/// Who a pod is.
#[derive(Debug)]
pub struct Identity {
    pub name: String,
    pub namespace: String,
    pub uid: String,
}

impl Identity {
    /// A field that a container's variable may name.
    pub fn field(&self, path: &str) -> Result<String> {
        Ok(match path {
            "metadata.name" => self.name.clone(),
            "metadata.namespace" => self.namespace.clone(),
            "metadata.uid" => self.uid.clone(),
            "spec.nodeName" => "guest".to_owned(),
            _ => bail!("a field that this node does not know: {path}"),
        })
    }

    /// What the runtime is told of the pod as a whole.
    pub fn sandbox(&self) -> PodSandboxConfig {
        let Identity {
            name,
            namespace,
            uid,
        } = self;
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: uid.clone(),
                namespace: namespace.clone(),
                attempt: 0,
            }),
            hostname: name.clone(),
            log_directory: format!("/var/log/pods/{namespace}_{name}_{uid}"),
            labels: HashMap::from([
                ("io.kubernetes.pod.name".into(), name.clone()),
                ("io.kubernetes.pod.namespace".into(), namespace.clone()),
                ("io.kubernetes.pod.uid".into(), uid.clone()),
            ]),
            annotations: HashMap::new(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/burstable/pod{uid}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(spec::namespaces()),
                    seccomp: None,
                }),
            }),
        }
    }
}
