//! The pods of a node, as far as somebody who asks the API has told of them. By their uid alone: a name, or a control
//! group of that name, anybody may claim; a uid is given once, and in a control group's path it is the kubelet's word.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// What is known of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedPod {
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its labels, now; none where it has too many.
    pub(crate) labels: BTreeMap<String, String>,
    /// There are more than are kept.
    pub(crate) has_too_many_labels: bool,
    /// Of a static pod, which the API knows by another uid than the node: the node's, and since when, in nanoseconds.
    pub(crate) mirrors: Option<(String, i128)>,
}

/// The pods of the node that the agent answers for. Clones know the same.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<Book>);

#[derive(Default)]
struct Book {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    by_uid: HashMap<String, Arc<NamedPod>>,
    /// Whether anybody has told of them yet.
    is_known: bool,
    /// What keeps us from hearing more.
    trouble: Option<String>,
}

impl Pods {
    /// These there are, by their uids, and no others.
    pub(crate) fn are(&self, pods: impl IntoIterator<Item = (String, NamedPod)>) {
        let mut state = self.state();
        state.by_uid = pods
            .into_iter()
            .map(|(uid, pod)| (uid, Arc::new(pod)))
            .collect();
        state.is_known = true;
        drop(state);
        self.tell();
    }

    /// There is this one, or it is another than before.
    pub(crate) fn is(&self, uid: String, pod: NamedPod) {
        self.state().by_uid.insert(uid, Arc::new(pod));
        self.tell();
    }

    /// There is none of this uid any more, and never will be again.
    pub(crate) fn gone(&self, uid: &str) {
        self.state().by_uid.remove(uid);
    }

    /// Something was heard.
    pub(crate) fn heard(&self) {
        if self.state().trouble.take().is_some() {
            tracing::info!("the API answers again: this node's pods are up to date");
        }
    }

    /// Nothing is heard, and why.
    pub(crate) fn fails(&self, why: String) {
        let mut state = self.state();
        if state.trouble.as_ref() != Some(&why) {
            tracing::warn!("the pods of this node: {why}");
        }
        state.trouble = Some(why);
    }

    /// The one that the node knows by this uid.
    pub(crate) fn find(&self, uid: &str) -> Option<Arc<NamedPod>> {
        let state = self.state();
        if let Some(pod) = state.by_uid.get(uid) {
            return Some(pod.clone());
        }
        // Who may make pods may make one that says it mirrors another. It would be younger.
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

    /// Why one may not be known.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// A line about what is amiss, if something is.
    pub(crate) fn note(&self) -> Option<String> {
        let state = self.state();
        let why = state.trouble.as_ref()?;
        Some(if state.is_known {
            format!("the pods of this node are out of date, and new ones unknown: {why}")
        } else {
            format!("the pods of this node are not known: {why}")
        })
    }

    /// Hears when there is another pod, or it is another than before.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn tell(&self) {
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
        let mut changes = pods.changes();
        assert_eq!(name(&pods, "1"), None);
        pods.are([
            ("1".to_owned(), pod("a", None)),
            ("2".to_owned(), pod("b", None)),
        ]);
        assert_eq!(name(&pods, "1").as_deref(), Some("a"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        pods.gone("1");
        assert_eq!(name(&pods, "1"), None);
        // a new one of that name is not the old one
        pods.is("3".into(), pod("a", None));
        assert!(changes.has_changed().unwrap());
        assert_eq!(name(&pods, "1"), None);
        // what a list does not have is gone
        pods.are([("3".to_owned(), pod("a", None))]);
        assert_eq!(name(&pods, "2"), None);
    }

    #[test]
    fn a_static_pod_is_the_oldest_that_says_so_and_no_pod_of_that_uid() {
        let pods = Pods::default();
        pods.is("forged".into(), pod("forged", Some(("static", 9))));
        pods.is("real".into(), pod("etcd-node", Some(("static", 3))));
        assert_eq!(name(&pods, "static").as_deref(), Some("etcd-node"));
        pods.is("static".into(), pod("itself", None));
        assert_eq!(name(&pods, "static").as_deref(), Some("itself"));
    }

    #[test]
    fn what_is_amiss_is_told_until_something_is_heard() {
        let pods = Pods::default();
        assert_eq!(pods.note(), None);
        pods.fails("no answer".into());
        assert_eq!(
            pods.note().as_deref(),
            Some("the pods of this node are not known: no answer")
        );
        pods.are([]);
        pods.fails("gone".into());
        assert!(pods.note().unwrap().contains("out of date"));
        pods.heard();
        assert_eq!((pods.note(), pods.trouble()), (None, None));
    }
}
