//! Objects of the cluster that ask for system calls, watched; and what is said in their status.

mod definition;
mod spec;
mod status;
#[cfg(all(test, feature = "test-kube"))]
mod tests;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::watcher::{Event, watcher},
};
use serde_json::Value;

use super::{Fault, PollPolicy, follow, line};

pub(crate) use self::{
    definition::definition,
    spec::Spec,
    status::{NodeStatus, StatusPen},
};

/// Objects in one answer: with a word of every node in their status they may be as large as etcd takes, 1.5 MB, and so many
/// fit into [`mod@line`]'s longest answer.
const PAGE: u32 = 5;

/// A kind of object that asks for system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    /// Ours, in a namespace, for that namespace's pods.
    SyscallMonitor,
    /// Of the agent `KubeWard`, for all programs. It has no status.
    KubeWard,
}

impl ObjectKind {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::SyscallMonitor, Self::KubeWard];

    /// As manifests call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SyscallMonitor => "SyscallMonitor",
            Self::KubeWard => "KubeWard",
        }
    }

    fn resource(self) -> ApiResource {
        let (group, version, plural) = match self {
            Self::SyscallMonitor => ("kernelseal.io", "v1alpha1", "syscallmonitors"),
            Self::KubeWard => ("kubeward.kubeward", "v1", "kubewards"),
        };
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: format!("{group}/{version}"),
            kind: self.name().into(),
            plural: plural.into(),
        }
    }

    /// The rule of a `ClusterRole` that it takes.
    pub(crate) fn rule(self) -> String {
        let ApiResource { group, plural, .. } = self.resource();
        format!("{{apiGroups: [{group}], resources: [{plural}], verbs: [list, watch]}}")
    }
}

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct AskingObject {
    /// Which.
    pub(crate) id: ObjectId,
    /// The API server's own, which no other object ever has.
    pub(crate) uid: String,
    /// Counts what its author changed.
    pub(crate) generation: i64,
    /// When the API server made it.
    pub(crate) since: Option<Timestamp>,
    /// What it asks for, or why that cannot be understood.
    pub(crate) asked: Result<Spec, String>,
    status: Option<Value>,
}

/// What names an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectId {
    /// Of which kind.
    pub(crate) kind: ObjectKind,
    /// Its namespace, if its kind has them.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.name();
        match &self.namespace {
            Some(namespace) => write!(f, "{kind} {namespace}/{}", self.name),
            None => write!(f, "{kind} {}", self.name),
        }
    }
}

/// What there is to tell of objects of a kind.
#[derive(Clone, Debug)]
pub(crate) enum ObjectNews {
    /// These there are, and no others.
    All(Vec<AskingObject>),
    /// One is there, or is another than before.
    Is(Box<AskingObject>),
    /// The one of this uid is gone.
    Gone(String),
}

/// Tells of all objects of a kind, for as long as it is polled, and of what keeps us from knowing.
pub(crate) async fn watch_objects(
    client: Client,
    kind: ObjectKind,
    poll_policy: PollPolicy,
    heard: impl Fn() + Clone + Send + Sync + 'static,
    mut tell: impl FnMut(Result<ObjectNews, Fault>),
) {
    let resource = kind.resource();
    let api: Api<DynamicObject> = Api::all_with(line::open(client, poll_policy, heard), &resource);
    let config = follow::config(None, &poll_policy).page_size(PAGE);
    let mut listed = Vec::new();
    let begin = || watcher(api.clone(), config.clone());
    follow::follow(poll_policy, begin, |event| match event {
        Ok(Event::Init) => listed.clear(),
        Ok(Event::InitApply(object)) => listed.extend(AskingObject::of(kind, object)),
        Ok(Event::InitDone) => tell(Ok(ObjectNews::All(std::mem::take(&mut listed)))),
        Ok(Event::Apply(object)) => {
            if let Some(object) = AskingObject::of(kind, object) {
                tell(Ok(ObjectNews::Is(Box::new(object))));
            }
        }
        Ok(Event::Delete(object)) => {
            if let Some(uid) = object.metadata.uid {
                tell(Ok(ObjectNews::Gone(uid)));
            }
        }
        Err(fault) => tell(Err(fault)),
    })
    .await;
}

impl AskingObject {
    /// Of what the API sends: nothing, should it lack what every object has.
    fn of(kind: ObjectKind, mut object: DynamicObject) -> Option<Self> {
        let metadata = object.metadata;
        let namespace = metadata.namespace;
        let spec = &object.data["spec"];
        let asked = match (kind, &namespace) {
            (ObjectKind::SyscallMonitor, namespace) => {
                Spec::of_syscall_monitor(namespace.as_deref()?, spec)
            }
            (ObjectKind::KubeWard, _) => Spec::of_kubeward(spec),
        };
        Some(Self {
            id: ObjectId {
                kind,
                namespace,
                name: metadata.name?,
            },
            uid: metadata.uid?,
            generation: metadata.generation.unwrap_or_default(),
            since: metadata.creation_timestamp.map(|time| time.0),
            asked,
            status: object.data.get_mut("status").map(Value::take),
        })
    }

    #[cfg(test)]
    pub(crate) fn new_for_tests(
        id: ObjectId,
        uid: &str,
        since: Timestamp,
        asked: Result<Spec, String>,
    ) -> Self {
        Self {
            id,
            uid: uid.to_owned(),
            generation: 1,
            since: Some(since),
            asked,
            status: None,
        }
    }

    /// What its status says of a node.
    pub(crate) fn status_of(&self, node: &str) -> Option<NodeStatus> {
        let nodes = self.status.as_ref()?["nodes"].as_array()?;
        let found = nodes.iter().find(|one| one["name"] == node)?;
        serde_json::from_value(found.clone()).ok()
    }
}
