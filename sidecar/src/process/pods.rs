//! The pods of the agent's node, as `agent/neighbours.rs` last got them from the Kubernetes API. They are looked up by uid alone. Anybody
//! may claim a pod's name or a cgroup of that name; a uid is given once, and the kubelet alone writes it into a cgroup's path.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// A pod as the API describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedPod {
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its current labels. Empty where [`NamedPod::has_too_many_labels`].
    pub(crate) labels: BTreeMap<String, String>,
    /// Its labels are longer than the agent keeps, and none of them is kept.
    pub(crate) has_too_many_labels: bool,
    /// For the API's mirror of a static pod, whose uid is not the one that the node knows: the node's uid, and when the mirror was
    /// created, in nanoseconds since 1970.
    pub(crate) mirrors: Option<(String, i128)>,
}

/// The pods of the node that the agent answers for. Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    by_uid: HashMap<String, Arc<NamedPod>>,
    /// Whether the API has listed them once.
    is_known: bool,
    /// Why the API cannot be asked at present.
    trouble: Option<String>,
}

impl Pods {
    /// Replaces all pods by these, with their uids.
    pub(crate) fn replace_all(&self, pods: impl IntoIterator<Item = (String, NamedPod)>) {
        let mut state = self.state();
        state.by_uid = pods
            .into_iter()
            .map(|(uid, pod)| (uid, Arc::new(pod)))
            .collect();
        state.is_known = true;
        drop(state);
        self.notify();
    }

    /// Adds a pod, or replaces the one of that uid.
    pub(crate) fn insert(&self, uid: String, pod: NamedPod) {
        self.state().by_uid.insert(uid, Arc::new(pod));
        self.notify();
    }

    /// Removes a deleted pod. Its uid is never given again.
    pub(crate) fn remove(&self, uid: &str) {
        self.state().by_uid.remove(uid);
    }

    /// The API has answered.
    pub(crate) fn clear_trouble(&self) {
        if self.state().trouble.take().is_some() {
            tracing::info!("the API answers again: this node's pods are up to date");
        }
    }

    /// The API could not be asked, for that reason.
    pub(crate) fn set_trouble(&self, why: String) {
        let mut state = self.state();
        if state.trouble.as_ref() != Some(&why) {
            tracing::warn!("the pods of this node: {why}");
        }
        state.trouble = Some(why);
    }

    /// The pod of that uid, as the node knows it: a static pod's is not its mirror's.
    pub(crate) fn find(&self, uid: &str) -> Option<Arc<NamedPod>> {
        let state = self.state();
        if let Some(pod) = state.by_uid.get(uid) {
            return Some(pod.clone());
        }
        // Anybody who may create pods may create one that claims to mirror another pod. The real mirror is older.
        let of_mirror = |pod: &&Arc<NamedPod>| {
            pod.mirrors
                .as_ref()
                .is_some_and(|(mirrored, _)| mirrored == uid)
        };
        let since = |pod: &&Arc<NamedPod>| pod.mirrors.as_ref().map(|(_, since)| *since);
        state
            .by_uid
            .values()
            .filter(of_mirror)
            .min_by_key(since)
            .cloned()
    }

    /// Why the API cannot be asked at present.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// A line for `/ready` and the log where the pods may be out of date.
    pub(crate) fn describe_trouble(&self) -> Option<String> {
        let state = self.state();
        let why = state.trouble.as_ref()?;
        Some(if state.is_known {
            format!("the pods of this node are out of date, and new ones unknown: {why}")
        } else {
            format!("the pods of this node are not known: {why}")
        })
    }

    /// Receives a message whenever a pod was added or replaced.
    pub(crate) fn subscribe_to_changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn notify(&self) {
        self.0.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole at every moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, mirrors: Option<(&str, i128)>) -> NamedPod {
        NamedPod {
            name: name.into(),
            mirrors: mirrors.map(|(uid, since)| (uid.into(), since)),
            ..NamedPod::default()
        }
    }

    fn name(pods: &Pods, uid: &str) -> Option<String> {
        pods.find(uid).map(|pod| pod.name.clone())
    }

    #[test]
    fn a_pod_is_known_by_its_uid_from_when_it_is_told_until_it_is_gone() {
        let pods = Pods::default();
        let mut changes = pods.subscribe_to_changes();
        assert_eq!(name(&pods, "1"), None);
        pods.replace_all([
            ("1".to_owned(), pod("a", None)),
            ("2".to_owned(), pod("b", None)),
        ]);
        assert_eq!(name(&pods, "1").as_deref(), Some("a"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        pods.remove("1");
        assert_eq!(name(&pods, "1"), None);
        // a new one of that name is not the old one
        pods.insert("3".into(), pod("a", None));
        assert!(changes.has_changed().unwrap());
        assert_eq!(name(&pods, "1"), None);
        // what a list does not have is gone
        pods.replace_all([("3".to_owned(), pod("a", None))]);
        assert_eq!(name(&pods, "2"), None);
    }

    #[test]
    fn a_static_pod_is_the_oldest_that_says_so_and_no_pod_of_that_uid() {
        let pods = Pods::default();
        pods.insert("forged".into(), pod("forged", Some(("static", 9))));
        pods.insert("real".into(), pod("etcd-node", Some(("static", 3))));
        assert_eq!(name(&pods, "static").as_deref(), Some("etcd-node"));
        pods.insert("static".into(), pod("itself", None));
        assert_eq!(name(&pods, "static").as_deref(), Some("itself"));
    }

    #[test]
    fn what_is_amiss_is_told_until_something_is_heard() {
        let pods = Pods::default();
        assert_eq!(pods.describe_trouble(), None);
        pods.set_trouble("no answer".into());
        assert_eq!(
            pods.describe_trouble().as_deref(),
            Some("the pods of this node are not known: no answer")
        );
        pods.replace_all([]);
        pods.set_trouble("gone".into());
        assert!(pods.describe_trouble().unwrap().contains("out of date"));
        pods.clear_trouble();
        assert_eq!((pods.describe_trouble(), pods.trouble()), (None, None));
    }
}
