//! An agent for the whole node, from deploy/daemonset.yaml, that asks the API server whose programs it sees.

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::{ensure_both, ensure_none};
use kernelseal_integration::registry::Registry;
use serde_json::{Value, json};

use crate::cluster::{ClusterPod, LentCluster};
use crate::manifest::shipped;
use crate::node::KERNELSEAL;
use crate::stack::{LIMIT, NAMESPACE, with_rights};

const MANIFEST: &str = include_str!("../manifests/node.yaml");
const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kernelseal-pods";
const AGENT: &str = "kernelseal-node";
/// The container of the `DaemonSet`'s pod.
const SIDECAR: &str = "kernelseal";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry.slow_test(
        "kubelet::an_agent_of_the_node_tells_pods_apart",
        LIMIT,
        tells_pods_apart,
    )
}

/// The pod that the `DaemonSet`'s controller would make on this node, with what the API server's admission adds, but
/// for the field that this kubelet's version does not know, and with the tests' image and configuration.
fn agent() -> Result<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&shipped("daemonset.yaml")?)?;
    let set = documents.iter().find(|it| it["kind"] == "DaemonSet");
    let template = set.context("no DaemonSet")?["spec"]["template"].clone();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": AGENT, "namespace": NAMESPACE, "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    });
    let spec = &mut pod["spec"];
    ensure!(
        spec["hostPID"] == true && spec["serviceAccountName"] == "kernelseal",
        "{spec}"
    );
    ensure!(
        spec["automountServiceAccountToken"].is_null(),
        "it has no token: {spec}"
    );
    spec["terminationGracePeriodSeconds"] = json!(1);
    for volume in spec["volumes"].as_array_mut().context("no volumes")? {
        if volume["name"] == "config" {
            volume["configMap"]["name"] = json!("node");
        }
    }
    push(
        &mut spec["volumes"],
        json!({"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}),
    )?;
    let container = &mut spec["containers"][0];
    container["image"] = json!(KERNELSEAL);
    let security = container["securityContext"].as_object_mut();
    security
        .context("no securityContext")?
        .remove("appArmorProfile");
    push(
        &mut container["volumeMounts"],
        json!({"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}),
    )?;
    Ok(pod)
}

fn push(list: &mut Value, item: Value) -> Result<()> {
    list.as_array_mut().context("no list")?.push(item);
    Ok(())
}

/// Programs of a pod that is not known yet wait, and no others do; then each has what its pod may have.
fn tells_pods_apart() -> Result<()> {
    let cluster = LentCluster::new()?;
    with_rights(&cluster)?;
    // It begins without the right to know pods.
    cluster.server.delete(BINDING)?;
    let pod = |namespace: &'static str, name: &'static str| ClusterPod {
        cluster: &cluster,
        namespace,
        name,
    };
    let (agent_pod, checkout) = (pod(NAMESPACE, AGENT), pod("shop", "checkout"));
    let (other, elsewhere) = (pod("shop", "other"), pod("elsewhere", "checkout"));
    let (first, pods) = MANIFEST
        .split_once("---\napiVersion: v1\nkind: Pod\n")
        .context("no pods")?;
    cluster.apply(first)?;
    cluster.apply(&agent()?.to_string())?;
    cluster.until("the agent is ready", || {
        let status = agent_pod.status(SIDECAR).unwrap_or_default();
        Ok((status["ready"] == true).then_some(()))
    })?;
    cluster.apply(&format!("apiVersion: v1\nkind: Pod\n{pods}"))?;
    let found = other.wait_for("bystander", |_| true)?;
    ensure!(found["env"] == "hunter2", "{found}");
    let held = |event: &Value| event["type"] == "EXEC" && event["process"] == "checkout";
    agent_pod.wait_for(SIDECAR, held)?;
    for waiting in [&checkout, &other, &elsewhere] {
        let told = waiting.printed("app")?;
        ensure!(told.is_empty(), "it did not wait: {told}");
    }
    with_rights(&cluster)?;
    ensure_both(&checkout.wait_for("app", |_| true)?, "hunter2")?;
    ensure_none(&other.wait_for("app", |_| true)?)?;
    ensure_none(&elsewhere.wait_for("app", |_| true)?)?;
    let sealed = agent_pod.wait_for(SIDECAR, |event| {
        event["type"] == "SEALED" && event["process"] == "checkout"
    })?;
    let wanted = json!({
        "container_id": checkout.id("app")?, "container_name": "app", "pod_name": "checkout", "pod_namespace": "shop",
    });
    ensure!(sealed["container"] == wanted, "{sealed}");

    // Labels are those of now.
    let ask = [
        "/usr/local/bin/checkout",
        "--env",
        "TOKEN",
        "--file",
        "TOKEN",
    ];
    let labelled = json!({"metadata": {"labels": {"app": "another"}}});
    let path = "/api/v1/namespaces/shop/pods/checkout";
    cluster.server.change(path, &labelled)?;
    cluster.until("another label is heeded", || {
        let told = checkout.exec("app", &ask)?;
        Ok(told.contains("\"TOKEN\":null").then_some(()))
    })
}
