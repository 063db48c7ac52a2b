//! Where in a document the pods are that can be given a sidecar.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

/// A pod, or a template of one, in a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pod {
    /// Where it is.
    pub(super) at: PointerBuf,
    /// Where the object is that it belongs to: itself, or a Deployment, and so on.
    pub(super) object: PointerBuf,
}

/// All of a document: of a List, those of its items.
pub(super) fn pods(document: &Value) -> Vec<Pod> {
    let mut found = Vec::new();
    search(document, &PointerBuf::new(), &mut found);
    found
}

fn search(object: &Value, at: &PointerBuf, found: &mut Vec<Pod>) {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (group, kind) = (text("apiVersion"), text("kind"));
    if let Some(path) = template(group, kind) {
        let tail = PointerBuf::from_tokens(path.iter().copied());
        found.push(Pod {
            at: at.concat(&tail),
            object: at.clone(),
        });
        return;
    }
    // `List`, and lists of one kind, which the API server writes: PodList, DeploymentList.
    let Some(item_kind) = kind.strip_suffix("List") else {
        return;
    };
    for (index, item) in object["items"].as_array().into_iter().flatten().enumerate() {
        let at = at.concat(&PointerBuf::from_tokens(["items", &index.to_string()]));
        if item["kind"].is_null() && !item_kind.is_empty() {
            // In a list of one kind the items need not name it.
            if let Some(path) = template(group, item_kind) {
                found.push(Pod {
                    at: at.concat(&PointerBuf::from_tokens(path.iter().copied())),
                    object: at,
                });
            }
            continue;
        }
        search(item, &at, found);
    }
}

/// The way to the pod in an object of a kind. Other groups' kinds of the same name are theirs.
fn template(api_version: &str, kind: &str) -> Option<&'static [&'static str]> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(&[]),
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "DaemonSet" | "ReplicaSet")
        | ("apps", "StatefulSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(document: &Value) -> Vec<String> {
        pods(document)
            .iter()
            .map(|pod| pod.at.to_string())
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
}
