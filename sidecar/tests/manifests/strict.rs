//! Whether a document is what its kind allows, no key more.
//!
//! Kubernetes' types skip keys they do not know. So a document is read into its type and written again: a
//! key that is gone was no key of that kind.

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::crds;

/// What is wrong with a document: nothing, or each key with its path.
pub(super) fn faults(document: &Value) -> Vec<String> {
    let text = |key: &str| document[key].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "ConfigMap") => check::<ConfigMap>(document),
        ("v1", "Namespace") => check::<Namespace>(document),
        ("v1", "Pod") => check::<Pod>(document),
        ("v1", "Secret") => check::<Secret>(document),
        ("v1", "Service") => check::<Service>(document),
        ("v1", "ServiceAccount") => check::<ServiceAccount>(document),
        ("apps/v1", "DaemonSet") => check::<DaemonSet>(document),
        ("apps/v1", "Deployment") => check::<Deployment>(document),
        ("apps/v1", "ReplicaSet") => check::<ReplicaSet>(document),
        ("apps/v1", "StatefulSet") => check::<StatefulSet>(document),
        ("batch/v1", "CronJob") => check::<CronJob>(document),
        ("batch/v1", "Job") => check::<Job>(document),
        ("policy/v1", "PodDisruptionBudget") => check::<PodDisruptionBudget>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => check::<ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            check::<ClusterRoleBinding>(document)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => check::<Role>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => check::<RoleBinding>(document),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            check::<MutatingWebhookConfiguration>(document)
        }
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            check::<CustomResourceDefinition>(document)
        }
        (version, kind) => crds::faults(version, kind, document)
            .unwrap_or_else(|| vec![format!("{version} {kind}: a kind that nobody here knows")]),
    }
}

/// Reads, writes, and compares.
pub(super) fn check<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
    let typed: T = match serde_json::from_value(document.clone()) {
        Ok(typed) => typed,
        Err(error) => return vec![error.to_string()],
    };
    let mut gone = Vec::new();
    compare(
        document,
        &serde_json::to_value(typed).unwrap(),
        "",
        &mut gone,
    );
    gone
}

fn compare(written: &Value, kept: &Value, path: &str, gone: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), kept) => {
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match kept.get(key) {
                    Some(kept) => compare(value, kept, &path, gone),
                    None => gone.push(format!("{path}: no such key")),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (index, (value, kept)) in written.iter().zip(kept).enumerate() {
                compare(value, kept, &format!("{path}[{index}]"), gone);
            }
        }
        // A quantity or a time may be written otherwise.
        (written, kept) if std::mem::discriminant(written) != std::mem::discriminant(kept) => {
            gone.push(format!("{path}: {kept} is of another type"));
        }
        _ => {}
    }
}

#[test]
fn a_misspelt_key_is_found_at_any_depth() {
    let good = "apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
        - name: a
          resources: {limits: {memory: 1Mi}}
          securityContext: {readOnlyRootFilesystem: true}
";
    let judge = |text: &str| faults(&super::documents(text)[0]);
    assert_eq!(judge(good), Vec::<String>::new());
    for (right, wrong, place) in [
        (
            "readOnlyRootFilesystem",
            "readOnlyRootFileSystem",
            ".spec.template.spec.containers[0].securityContext.readOnlyRootFileSystem",
        ),
        (
            "limits",
            "limit",
            ".spec.template.spec.containers[0].resources.limit",
        ),
        (
            "template:\n    metadata",
            "template:\n    metadatas",
            ".spec.template.metadatas",
        ),
        (
            "metadata: {name: a}",
            "metadata: {names: a}",
            ".metadata.names",
        ),
    ] {
        assert_eq!(
            judge(&good.replace(right, wrong)),
            [format!("{place}: no such key")]
        );
    }
    assert!(
        !judge(&good.replace("true}", "\"true\"}")).is_empty(),
        "a wrong type"
    );
    assert!(
        !judge(&good.replace("kind: Deployment", "kind: Deploiment")).is_empty(),
        "a wrong kind"
    );
}
