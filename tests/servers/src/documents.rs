//! Objects as manifests write them: applied, read, changed and deleted, by the administrator.

use anyhow::{Context as _, Result};
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::{ADMIN_TOKEN, AGENT, Administrator};

/// What deploy/ lets agents do.
const RIGHTS: &str = include_str!("../../../deploy/rbac.yaml");

/// Of the kinds that tests apply, those that are in no namespace.
const IN_NO_NAMESPACE: [&str; 5] = [
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "KubeWard",
];

/// Since when pods have native sidecars: init containers with `restartPolicy: Always`.
pub const NATIVE_SIDECARS: u32 = 29;
/// Since when containers have the field `appArmorProfile`.
pub const APPARMOR_PROFILE: u32 = 30;

impl Administrator {
    /// Makes an object what its document says. A field that the server does not know is an error.
    pub fn apply_document(&self, document: &Value) -> Result<Value> {
        let path = path(document)?;
        let query = format!("{path}?fieldManager=tests&force=true");
        self.ask(
            Method::PATCH,
            &query,
            Some(("application/apply-patch+yaml", document)),
        )
        .with_context(|| format!("apply {path}"))
    }

    /// Gives the agent what the cluster-wide half of deploy/rbac.yaml gives to that of a node.
    pub fn allow_node_agent(&self) -> Result<()> {
        let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": AGENT});
        let documents: Vec<Value> = serde_saphyr::from_multiple(RIGHTS)?;
        for mut document in documents {
            if document["kind"] == "ClusterRoleBinding" {
                document["subjects"] = json!([user]);
            } else if document["kind"] != "ClusterRole" {
                continue;
            }
            self.apply_document(&document)?;
        }
        Ok(())
    }

    /// Which Kubernetes 1.x the server is: by that tests choose what it knows.
    pub fn minor_version(&self) -> Result<u32> {
        minor(&self.read("/version")?)
    }

    /// Changes fields of an object, by a merge patch.
    pub fn change(&self, path: &str, fields: &Value) -> Result<Value> {
        self.ask(
            Method::PATCH,
            path,
            Some(("application/merge-patch+json", fields)),
        )
        .with_context(|| format!("change {path}"))
    }

    /// An object, or a list of them: `/api/v1/namespaces/NAME/pods/NAME`.
    pub fn read(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None)
            .with_context(|| format!("read {path}"))
    }

    /// Takes an object away. A pod's kubelet has its own time for that.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.ask(Method::DELETE, path, None)
            .with_context(|| format!("delete {path}"))
    }

    fn ask(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let client = self.client(Some(ADMIN_TOKEN))?;
        let mut request = Request::builder().method(method).uri(path);
        let mut content = Vec::new();
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind);
            content = value.to_string().into_bytes();
        }
        Ok(self
            .runtime()
            .block_on(client.request(request.body(content)?))?)
    }
}

/// Where the API has the object of a document.
fn path(document: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let version = text(&document["apiVersion"]).context("a document without apiVersion")?;
    let kind = text(&document["kind"]).context("a document without kind")?;
    let name = text(&document["metadata"]["name"]).context("a document without a name")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = kind.to_lowercase() + "s";
    if IN_NO_NAMESPACE.contains(&kind.as_str()) {
        return Ok(format!("/{root}/{version}/{plural}/{name}"));
    }
    let namespace = text(&document["metadata"]["namespace"]);
    let namespace = namespace.with_context(|| format!("{kind} {name} names no namespace"))?;
    Ok(format!(
        "/{root}/{version}/namespaces/{namespace}/{plural}/{name}"
    ))
}

/// The second number of what `/version` answers; distributions add a `+`.
fn minor(version: &Value) -> Result<u32> {
    let text = version["minor"].as_str().unwrap_or_default();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    anyhow::ensure!(version["major"] == "1", "not Kubernetes 1.x: {version}");
    text[..end]
        .parse()
        .with_context(|| format!("the server's version: {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_version_may_have_a_plus() {
        assert_eq!(minor(&json!({"major": "1", "minor": "36"})).unwrap(), 36);
        assert_eq!(minor(&json!({"major": "1", "minor": "20+"})).unwrap(), 20);
        for bad in [
            json!({}),
            json!({"major": "2", "minor": "0"}),
            json!({"major": "1", "minor": ""}),
        ] {
            assert!(minor(&bad).is_err(), "{bad}");
        }
    }
}
