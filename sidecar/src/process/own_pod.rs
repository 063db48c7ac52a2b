//! The pod that the agent lives in, as who wrote it tells the agent.

use std::{collections::BTreeMap, env, fs, io};

use super::{container::PodRef, lines, seen::Seen, text};

/// Where the agent's pod has its labels (a downwardAPI volume).
pub(crate) const LABELS: &str = "/etc/podinfo/labels";
/// Variables by which the agent is told of its pod (`fieldRef`).
const POD_NAME: &str = "POD_NAME";
pub(crate) const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// The same, where the pod has a service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The pod that the agent lives in, and with it everything it sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<String>,
}

impl Pod {
    /// As the agent was told by who wrote its pod.
    pub(crate) fn of_agent() -> Self {
        let told = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let from_file = || {
            let text = fs::read_to_string(NAMESPACE_FILE).ok()?;
            Some(text.trim().to_owned())
        };
        Self {
            name: told(POD_NAME),
            namespace: told(POD_NAMESPACE).or_else(from_file),
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
