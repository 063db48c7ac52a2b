//! Which objects a document holds, and where in each the pod is that can be given a sidecar.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

/// How deep in an object of an unknown kind something like a pod is looked for.
const GUESS_DEPTH: usize = 6;

/// Where the pod is in objects of a kind that is not known here: `--pod-path Kind.group=path.to.template`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPath {
    kind: String,
    /// Empty for the core group.
    group: String,
    /// Keys, from the object's root.
    path: Vec<String>,
}

impl PodPath {
    /// Reads what `--pod-path` was given.
    ///
    /// # Errors
    ///
    /// Why it is none, and what one looks like.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let legal = |word: &str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let parts = || {
            let (object, path) = text.split_once('=')?;
            let (kind, group) = object.split_once('.').unwrap_or((object, ""));
            let path: Vec<_> = path.split('.').map(str::to_owned).collect();
            let is_legal = legal(kind)
                && (group.is_empty() || group.split('.').all(legal))
                && path.iter().all(|key| legal(key));
            is_legal.then(|| Self {
                kind: kind.to_owned(),
                group: group.to_owned(),
                path,
            })
        };
        parts().ok_or_else(|| {
            "write KIND.GROUP=PATH, with the keys that lead to the pod's template: Database.example.org=spec.podTemplate"
                .to_owned()
        })
    }
}

/// An object of a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Where it is in the document.
    pub(super) at: PointerBuf,
    /// Its kind, name and namespace, as far as they are such: for messages.
    pub(super) title: String,
    /// Where its pod is in the document, or a template of one.
    pub(super) pod: Result<PointerBuf, NoPod>,
    /// A Knative object: its own rules for pods apply.
    pub(super) is_knative: bool,
}

/// Why an object has no pod that we could change, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPod {
    pub(super) why: String,
    /// Empty when there is nothing to do.
    pub(super) help: String,
}

impl Object {
    #[cfg(test)]
    fn pod_at(&self) -> Option<String> {
        self.pod.as_ref().ok().map(ToString::to_string)
    }
}

/// All objects of a document: of a List, its items.
pub(super) fn objects(document: &Value, more: &[PodPath]) -> Vec<Object> {
    let mut search = Search {
        more,
        found: Vec::new(),
    };
    if !document.is_null() {
        search.object(document, &PointerBuf::new(), ("", ""));
    }
    search.found
}

struct Search<'a> {
    more: &'a [PodPath],
    found: Vec<Object>,
}

impl Search<'_> {
    /// `usual`: API version and kind of an item that names none.
    fn object(&mut self, object: &Value, at: &PointerBuf, usual: (&str, &str)) {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (version, kind) = if object["kind"].is_null() {
            usual
        } else {
            (text("apiVersion"), text("kind"))
        };
        // `List`, and lists of one kind, which the API server writes: PodList, DeploymentList.
        if let (Some(item_kind), Some(items)) =
            (kind.strip_suffix("List"), object["items"].as_array())
        {
            for (index, item) in items.iter().enumerate() {
                let at = at.concat(&PointerBuf::from_tokens(["items", &index.to_string()]));
                self.object(item, &at, (version, item_kind));
            }
            return;
        }
        let pod = self.pod(object, version, kind).map(|tail| at.concat(&tail));
        self.found.push(Object {
            at: at.clone(),
            title: title(object, kind),
            pod,
            is_knative: group_of(version) == "serving.knative.dev",
        });
    }

    fn pod(&self, object: &Value, version: &str, kind: &str) -> Result<PointerBuf, NoPod> {
        let no_pod = |why: &str, help: String| NoPod {
            why: why.to_owned(),
            help,
        };
        if kind.is_empty() {
            return Err(no_pod("not an object of Kubernetes", String::new()));
        }
        let group = group_of(version);
        if (group, kind) == ("argoproj.io", "Rollout")
            && object["spec"]["template"].is_null()
            && !object["spec"]["workloadRef"].is_null()
        {
            return Err(no_pod(
                "its pods are those of the workload in workloadRef",
                "inject into that workload".into(),
            ));
        }
        if let Some(path) = template(group, kind) {
            return Ok(PointerBuf::from_tokens(path.iter().copied()));
        }
        let named = |path: &&PodPath| path.kind == kind && path.group == group;
        if let Some(own) = self.more.iter().find(named) {
            let tail = PointerBuf::from_tokens(own.path.iter().map(String::as_str));
            if object.pointer(tail.as_str()).is_none_or(Value::is_null) {
                return Err(no_pod(
                    &format!("it has nothing at {}", own.path.join(".")),
                    "correct --pod-path".into(),
                ));
            }
            return Ok(tail);
        }
        let Some(path) = guess(object, GUESS_DEPTH) else {
            return Err(no_pod("no pod in it", String::new()));
        };
        let group = if group.is_empty() {
            String::new()
        } else {
            format!(".{group}")
        };
        Err(no_pod(
            &format!("this kind is not known, though there seems to be a pod at {path}"),
            format!(
                "if that is so, add --pod-path {}{}={path}",
                word(kind),
                safe(&group)
            ),
        ))
    }
}

/// Where an object of an unknown kind seems to have a pod's template: below its root, mappings only.
fn guess(object: &Value, depth: usize) -> Option<String> {
    let entries = object
        .as_object()?
        .iter()
        .filter(|(key, _)| word(key) == **key);
    entries.filter(|_| depth > 0).find_map(|(key, value)| {
        let has_containers = value["spec"]["containers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        if has_containers {
            return Some(key.clone());
        }
        guess(value, depth - 1).map(|tail| format!("{key}.{tail}"))
    })
}

/// An object as a message names it. What is no kind or name may be anything, and is not quoted.
fn title(object: &Value, kind: &str) -> String {
    let metadata = &object["metadata"];
    let text = |key: &str| metadata[key].as_str().map(safe).unwrap_or_default();
    let kind = word(kind);
    let kind = if kind.is_empty() { "a document" } else { kind };
    let name = match (text("name"), text("generateName")) {
        ("", "") => return kind.to_owned(),
        ("", prefix) => format!("{prefix}…"),
        (name, _) => name.to_owned(),
    };
    match text("namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// A kind, or nothing.
fn word(text: &str) -> &str {
    let legal = text.chars().all(|c| c.is_ascii_alphanumeric());
    if legal { text } else { "" }
}

/// A name in Kubernetes, or nothing.
fn safe(text: &str) -> &str {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    if text.len() <= super::options::MAX_NAME && text.chars().all(legal) {
        text
    } else {
        ""
    }
}

fn group_of(version: &str) -> &str {
    version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// The way to the pod in an object of a kind. Other groups' kinds of the same name are theirs.
fn template(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    match (group, kind) {
        ("", "Pod") | ("serving.knative.dev", "Revision") => Some(&[]),
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet")
        | ("apps", "StatefulSet")
        | ("batch", "Job")
        | ("argoproj.io", "Rollout")
        | ("serving.knative.dev", "Service" | "Configuration")
        | ("apps.openshift.io", "DeploymentConfig") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(document: &Value) -> Vec<String> {
        objects(document, &[])
            .iter()
            .filter_map(Object::pod_at)
            .collect()
    }

    #[test]
    fn each_kind_has_its_pod_where_kubernetes_has_it() {
        let kinds = [
            ("v1", "Pod", ""),
            ("v1", "ReplicationController", "/spec/template"),
            ("apps/v1", "Deployment", "/spec/template"),
            ("apps/v1", "StatefulSet", "/spec/template"),
            ("apps/v1", "DaemonSet", "/spec/template"),
            ("apps/v1", "ReplicaSet", "/spec/template"),
            ("batch/v1", "Job", "/spec/template"),
            ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
            ("argoproj.io/v1alpha1", "Rollout", "/spec/template"),
            ("serving.knative.dev/v1", "Service", "/spec/template"),
            ("serving.knative.dev/v1", "Revision", ""),
            ("apps.openshift.io/v1", "DeploymentConfig", "/spec/template"),
        ];
        for (version, kind, path) in kinds {
            assert_eq!(
                at(&json!({"apiVersion": version, "kind": kind})),
                [path],
                "{kind}"
            );
        }
    }

    #[test]
    fn other_kinds_and_other_groups_have_none() {
        for (version, kind) in [
            ("v1", "Service"),
            ("example.org/v1", "Deployment"),
            ("batch.volcano.sh/v1alpha1", "Job"),
            ("v1", "ConfigMapList"),
        ] {
            let document = json!({"apiVersion": version, "kind": kind, "items": [{"spec": {}}]});
            assert!(at(&document).is_empty(), "{kind}");
        }
    }

    #[test]
    fn lists_are_searched_whether_or_not_their_items_say_what_they_are() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod"});
        let nested = json!({"apiVersion": "v1", "kind": "List", "items": [{}, {"apiVersion": "v1", "kind": "List", "items": [pod]}]});
        assert_eq!(at(&nested), ["/items/1/items/0"]);
        let typed = json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{}, {}]});
        assert_eq!(
            at(&typed),
            ["/items/0/spec/template", "/items/1/spec/template"]
        );
    }

    #[test]
    fn a_path_names_the_pod_of_a_kind_that_is_not_known() {
        let path = PodPath::read("Database.example.org=spec.podTemplate").unwrap();
        let object = json!({"apiVersion": "example.org/v1", "kind": "Database", "spec": {"podTemplate": {"spec": {}}}});
        let found = objects(&object, &[path]);
        assert_eq!(found[0].pod_at().as_deref(), Some("/spec/podTemplate"));
        let elsewhere = PodPath::read("Database.example.com=spec.podTemplate").unwrap();
        assert!(objects(&object, &[elsewhere])[0].pod.is_err());
        for bad in [
            "",
            "Database",
            "Database=",
            "=spec",
            "A..b=c",
            "A=b..c",
            "A=b c",
        ] {
            assert!(PodPath::read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_looks_like_a_pod_in_an_unknown_kind_is_named_with_its_path() {
        let object = json!({"apiVersion": "example.org/v1", "kind": "Database", "spec": {"size": 1, "pod": {"spec": {"containers": [{}]}}}});
        let no_pod = objects(&object, &[]).remove(0).pod.unwrap_err();
        assert!(
            no_pod
                .help
                .ends_with("--pod-path Database.example.org=spec.pod"),
            "{no_pod:?}"
        );
    }

    #[test]
    fn a_title_quotes_no_text_that_is_no_name() {
        let object =
            json!({"kind": "Secret", "metadata": {"name": "hunter 2", "namespace": "shop"}});
        assert_eq!(objects(&object, &[])[0].title, "Secret");
        let object =
            json!({"kind": "Pod", "metadata": {"generateName": "a-", "namespace": "shop"}});
        assert_eq!(objects(&object, &[])[0].title, "Pod shop/a-…");
    }
}
