//! The pods of one node, watched: who they are, by what the API server itself and their authors wrote. Only their
//! metadata is asked for: what else is in a pod (variables, commands) is none of our business.

#[cfg(all(test, feature = "test-kube"))]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ObjectMeta, PartialObjectMeta},
    runtime::watcher::{Event, watcher},
};

use super::{Fault, PollPolicy, follow, line};

/// On the API's mirror of a static pod: the uid that the kubelet knows it by, in control groups too.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods in one answer. Their metadata may hold what people put there, up to a quarter of a megabyte each, and more of
/// bookkeeping: so many fit into [`mod@line`]'s longest answer.
const PAGE: u32 = 20;

/// Bytes of labels that are kept of a pod. The API takes one and a half megabytes; people write some hundred bytes.
const MOST_LABELS: usize = 16 * 1024;

/// A pod of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePod {
    /// The API server's own, which no other pod ever has.
    pub(crate) uid: String,
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its labels, now; none where it has too many.
    pub(crate) labels: BTreeMap<String, String>,
    /// There are more than we keep: any who may make pods may make such.
    pub(crate) has_too_many_labels: bool,
    /// Of a static pod: the uid by which the node knows it.
    pub(crate) mirrors: Option<String>,
    /// When the API server made it.
    pub(crate) since: Option<Timestamp>,
}

/// What there is to tell of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodNews {
    /// These there are, and no others.
    All(Vec<NodePod>),
    /// One is there, or is another than before.
    Is(NodePod),
    /// The one of this uid is gone.
    Gone(String),
}

/// Tells of the node's pods, for as long as it is polled, and of what keeps us from knowing.
pub(crate) async fn watch_pods(
    client: Client,
    node: String,
    poll_policy: PollPolicy,
    heard: impl Fn() + Clone + Send + Sync + 'static,
    mut tell: impl FnMut(Result<PodNews, Fault>),
) {
    let api: Api<PartialObjectMeta<Pod>> = Api::all(line::open(client, poll_policy, heard));
    let config =
        follow::config(Some(&format!("spec.nodeName={node}")), &poll_policy).page_size(PAGE);
    let mut listed = Vec::new();
    let begin = || watcher(api.clone(), config.clone());
    follow::follow(poll_policy, begin, |event| match event {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(pod)) => listed.extend(NodePod::of(pod)),
        Ok(Event::InitDone) => tell(Ok(PodNews::All(std::mem::take(&mut listed)))),
        Ok(Event::Apply(pod)) => {
            if let Some(pod) = NodePod::of(pod) {
                tell(Ok(PodNews::Is(pod)));
            }
        }
        Ok(Event::Delete(pod)) => {
            if let Some(uid) = pod.metadata.uid {
                tell(Ok(PodNews::Gone(uid)));
            }
        }
        Err(fault) => tell(Err(fault)),
    })
    .await;
}

/// Labels, if they are not too many; whether they are.
fn kept(labels: BTreeMap<String, String>) -> (BTreeMap<String, String>, bool) {
    let lengths = labels.iter().map(|(key, value)| key.len() + value.len());
    if lengths.sum::<usize>() > MOST_LABELS {
        return (BTreeMap::new(), true);
    }
    (labels, false)
}

impl NodePod {
    /// Of what the API sends: nothing, should it lack what every pod has.
    fn of(pod: PartialObjectMeta<Pod>) -> Option<Self> {
        let ObjectMeta {
            uid,
            name,
            namespace,
            labels,
            annotations,
            creation_timestamp,
            ..
        } = pod.metadata;
        let (labels, has_too_many_labels) = kept(labels.unwrap_or_default());
        Some(Self {
            uid: uid?,
            name: name?,
            namespace: namespace?,
            labels,
            has_too_many_labels,
            mirrors: annotations.and_then(|mut all| all.remove(MIRROR)),
            since: creation_timestamp.map(|time| time.0),
        })
    }
}

#[cfg(test)]
mod size_tests {
    use super::*;

    #[test]
    fn labels_without_number_are_not_kept() {
        let labels = |count: usize| -> BTreeMap<String, String> {
            (0..count)
                .map(|n| (format!("key-{n}"), "x".repeat(60)))
                .collect()
        };
        let (few, are_too_many) = kept(labels(20));
        assert!(few.len() == 20 && !are_too_many);
        assert_eq!(kept(labels(1_000)), (BTreeMap::new(), true));
    }
}
