//! What a node says in an object's status. Every node applies its own part, and no other: they share nothing there.

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{AskingObject, ObjectKind};
use crate::kube::{Fault, PollPolicy, line};

/// What field managers' names begin with; the node's follows.
const MANAGER: &str = "kernelseal-";
/// Bytes of a field manager's name, for the API server.
const LONGEST_MANAGER: usize = 128;

/// What one node says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    /// The node.
    pub(crate) name: String,
    /// The generation of the object that the agent evaluated.
    pub(crate) observed_generation: i64,
    /// Its system calls that are watched there.
    #[serde(default)]
    pub(crate) attached: Vec<String>,
    /// How many of them by probes of their functions.
    #[serde(default)]
    pub(crate) probes: u32,
    /// How many calls are watched by the tracepoints `raw_syscalls`.
    #[serde(default)]
    pub(crate) tracepoints: u32,
    /// Which part of the object is not in force, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Writes what one node says.
pub(crate) struct StatusPen {
    client: Client,
    manager: String,
}

impl StatusPen {
    /// That node's. Asks no oftener than the policy says.
    pub(crate) fn of_node(client: Client, node: &str, poll_policy: PollPolicy) -> Self {
        Self {
            client: line::open(client, poll_policy, || {}),
            manager: manager(node),
        }
    }

    /// Replaces this node's part of an object's status, or removes it (`None`). An object that is gone is no error. (If another object
    /// has its name by now, it has this status until the node hears of it: a write to a status cannot require a uid.)
    pub(crate) async fn write(
        &self,
        object: &AskingObject,
        said: Option<&NodeStatus>,
    ) -> Result<(), Fault> {
        let resource = ObjectKind::SyscallMonitor.resource();
        let namespace = object.id.namespace.as_deref().unwrap_or_default();
        let client = self.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &resource);
        let apply = PatchParams::apply(&self.manager).force();
        let patch = Patch::Apply(part(object, said));
        let done = api.patch_status(&object.id.name, &apply, &patch).await;
        match done {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(e) => Err(Fault::of_request(&e)),
            Ok(_) => Ok(()),
        }
    }
}

/// The node's part of the object.
fn part(object: &AskingObject, said: Option<&NodeStatus>) -> Value {
    let resource = ObjectKind::SyscallMonitor.resource();
    let whole = said.filter(|said| said.error.is_none());
    let on: Vec<&str> = whole.iter().map(|said| said.name.as_str()).collect();
    let nodes: Vec<&NodeStatus> = said.into_iter().collect();
    json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": object.id.name, "namespace": object.id.namespace},
        // (empty lists rather than none: what is left is then of the right shape, or a null)
        "status": {"nodes": nodes, "attachedOn": on},
    })
}

/// A node's own. One whose name is too long goes by its digest.
fn manager(node: &str) -> String {
    let plain = format!("{MANAGER}{node}");
    if plain.len() <= LONGEST_MANAGER {
        return plain;
    }
    format!("{MANAGER}{}", hex::encode(Sha256::digest(node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_managers_of_their_own_however_long_their_names() {
        assert_eq!(manager("node-1"), "kernelseal-node-1");
        let long = "a".repeat(253);
        let other = format!("{}b", "a".repeat(252));
        assert!(manager(&long).len() <= LONGEST_MANAGER);
        assert_ne!(manager(&long), manager(&other));
    }
}
