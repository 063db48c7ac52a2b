//! The pods of a node, for an agent that answers for one: asked of the API, told to those who look programs up.

use std::time::Duration;

use ::kube::Client;
use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;

use super::own_pod;
use crate::{
    kube::{Cluster, NodePod, PodNews, PollPolicy, watch_pods},
    observe::node_in_kubernetes,
    process::{NamedPod, Pods},
};

/// From one request to the next: a list comes in pages, and until its last one programs wait.
const APART: Duration = Duration::from_millis(250);

/// Whether this agent can ask for pods: it answers for a node whose name it was told, and has somebody to ask.
pub(super) fn can_be_known() -> bool {
    own_pod().is_none() && node_in_kubernetes().is_some() && Cluster::is_named()
}

/// Whom to ask, and for which node.
pub(super) struct Neighbours {
    client: Client,
    node: String,
}

impl Neighbours {
    /// Nothing, where they cannot be known. Asks nobody yet.
    pub(super) async fn find() -> anyhow::Result<Option<Self>> {
        let Some(node) = node_in_kubernetes().filter(|_| can_be_known()) else {
            return Ok(None);
        };
        let why = "the pods of this node cannot be asked for";
        let Some(cluster) = Cluster::find().await.context(why)? else {
            return Ok(None);
        };
        let client = cluster.client().context(why)?;
        Ok(Some(Self { client, node }))
    }

    /// The same, for who asks for something else there.
    pub(super) fn line(&self) -> (Client, String) {
        (self.client.clone(), self.node.clone())
    }

    /// Listens from here on: as soon as the runtime is next given its turn.
    pub(super) fn listen(self, pods: &Pods) -> Pods {
        tokio::spawn(listen(self.client, self.node, pods.clone()));
        pods.clone()
    }
}

async fn listen(client: Client, node: String, pods: Pods) {
    let heard = {
        let pods = pods.clone();
        move || pods.clear_trouble()
    };
    let poll_policy = PollPolicy {
        apart: APART,
        ..PollPolicy::default()
    };
    watch_pods(client, node, poll_policy, heard, |news| match news {
        Ok(PodNews::All(all)) => {
            tracing::info!(pods = all.len(), "the API tells of this node's pods");
            pods.replace_all(all.into_iter().map(named));
        }
        Ok(PodNews::Is(pod)) => {
            let (uid, pod) = named(pod);
            pods.insert(uid, pod);
        }
        Ok(PodNews::Gone(uid)) => pods.remove(&uid),
        Err(fault) => pods.set_trouble(fault.tell_of_pods()),
    })
    .await;
}

fn named(pod: NodePod) -> (String, NamedPod) {
    let since = pod.since.map_or(i128::MAX, Timestamp::as_nanosecond);
    let named = NamedPod {
        name: pod.name,
        namespace: pod.namespace,
        labels: pod.labels,
        has_too_many_labels: pod.has_too_many_labels,
        mirrors: pod.mirrors.map(|uid| (uid, since)),
    };
    (pod.uid, named)
}
