//! The pod that the agent runs in, as the pod's own spec tells it: environment variables and mounted files.

use std::{collections::BTreeMap, env, fs, io};

use super::{container::PodRef, lines, seen::Seen, text};

/// Where the agent's pod has its labels (a downwardAPI volume).
pub(crate) const LABELS: &str = "/etc/podinfo/labels";
/// Environment variables with the pod's name and namespace (`fieldRef`).
const POD_NAME: &str = "POD_NAME";
pub(crate) const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// The pod's namespace, where the pod has a service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The pod that the agent runs in. All that a sidecar agent sees is in the same pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
}

impl Pod {
    /// Reads the variables and the service account's file. Empty ones count as missing.
    pub(crate) fn of_agent() -> Self {
        let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let variable = |name| some(&env::var(name).ok()?);
        let file = || some(&fs::read_to_string(NAMESPACE_FILE).ok()?);
        Self {
            name: variable(POD_NAME),
            namespace: variable(POD_NAMESPACE).or_else(file),
        }
    }

    /// What Kubernetes calls it, where the agent was told; its uid is in what the kubelet mounted for the agent.
    pub(crate) fn reference(self) -> Option<PodRef> {
        let mounted = Seen::open(std::process::id())
            .ok()
            .and_then(|own| own.find_mounted(|_| true).ok()?);
        Some(PodRef {
            namespace: self.namespace?,
            name: self.name?,
            uid: mounted.map(|mounted| mounted.pod),
        })
    }

    /// Its labels, now.
    pub(crate) fn labels() -> io::Result<BTreeMap<String, String>> {
        let text = lines::whole(fs::File::open(LABELS)?, lines::LONGEST_SHORT_TEXT)?;
        Ok(text::labels(&String::from_utf8_lossy(&text)))
    }
}
