//! An agent for the whole node, from deploy/daemonset.yaml, that asks the API server whose programs it sees, and which
//! calls of theirs it is to tell of.

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::{ensure_both, ensure_none};
use kernelseal_integration::registry::Registry;
use kernelseal_servers::APPARMOR_PROFILE;
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
/// What objects ask for here.
const CALL: &str = "uname";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "kubelet::an_agent_of_the_node_tells_pods_apart",
            LIMIT,
            tells_pods_apart,
        )
        .slow_test(
            "kubelet::objects_ask_for_calls_of_their_namespaces_pods",
            LIMIT,
            objects_ask,
        )
}

/// The agent, and the pods of the manifest.
struct Scene<'a> {
    cluster: &'a LentCluster,
    agent: ClusterPod<'a>,
    checkout: ClusterPod<'a>,
    other: ClusterPod<'a>,
    elsewhere: ClusterPod<'a>,
}

impl<'a> Scene<'a> {
    fn of(cluster: &'a LentCluster) -> Self {
        let pod = |namespace, name| ClusterPod {
            cluster,
            namespace,
            name,
        };
        Self {
            cluster,
            agent: pod(NAMESPACE, AGENT),
            checkout: pod("shop", "checkout"),
            other: pod("shop", "other"),
            elsewhere: pod("elsewhere", "checkout"),
        }
    }

    /// Starts the agent, and the pods once it is ready.
    fn start(&self) -> Result<()> {
        let (first, pods) = MANIFEST
            .split_once("---\napiVersion: v1\nkind: Pod\n")
            .context("no pods")?;
        self.cluster.apply(&shipped("crd.yaml")?)?;
        self.cluster.apply(first)?;
        let agent = agent(self.cluster.server.minor_version()?)?;
        self.cluster.apply(&agent.to_string())?;
        self.cluster.until("the agent is ready", || {
            let status = self.agent.status(SIDECAR).unwrap_or_default();
            Ok((status["ready"] == true).then_some(()))
        })?;
        self.cluster
            .apply(&format!("apiVersion: v1\nkind: Pod\n{pods}"))
    }

    /// Makes the call in a pod.
    fn call_in(pod: &ClusterPod<'_>) -> Result<()> {
        let told = pod.exec("app", &[CALL])?;
        ensure!(told.trim() == "Linux", "{told}");
        Ok(())
    }

    /// The events of that call in a pod, until now.
    fn calls_of(&self, pod: &ClusterPod<'_>) -> Result<Vec<Value>> {
        let text = self.agent.printed(SIDECAR)?;
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(lines
            .filter(|event: &Value| {
                let container = &event["container"];
                event["syscall"] == CALL
                    && container["pod_name"] == pod.name
                    && container["pod_namespace"] == pod.namespace
            })
            .collect())
    }

    /// Makes the call in a pod that is watched, until it is told of once more.
    fn told_again(&self, pod: &ClusterPod<'_>) -> Result<Value> {
        let before = self.calls_of(pod)?.len();
        self.cluster.until("a watched call is told", || {
            Self::call_in(pod)?;
            Ok(self.calls_of(pod)?.get(before).cloned())
        })
    }

    /// Asks for the call in a namespace, and waits until the node says that it is watched there.
    fn ask_for_calls(&self, namespace: &str, more: &Value) -> Result<()> {
        let mut spec = more.clone();
        spec["names"] = json!([CALL]);
        self.cluster.server.apply_document(&json!({
            "apiVersion": "kernelseal.io/v1alpha1", "kind": "SyscallMonitor",
            "metadata": {"name": "calls", "namespace": namespace}, "spec": spec,
        }))?;
        let status = || -> Result<Value> {
            let object = self.cluster.server.read(&object(namespace))?;
            Ok(object["status"].clone())
        };
        let said = self.cluster.until("the object's status says so", || {
            let status = status()?;
            let node = &status["nodes"][0];
            let is_watched = status["attachedOn"] == json!(["guest"])
                && node["attached"] == json!([CALL])
                && node["error"].is_null();
            Ok(is_watched.then_some(()))
        });
        said.with_context(|| format!("it says {:?}", status()))
    }
}

/// Where the API has what [`Scene::ask_for_calls`] made.
fn object(namespace: &str) -> String {
    format!("/apis/kernelseal.io/v1alpha1/namespaces/{namespace}/syscallmonitors/calls")
}

/// The pod that the `DaemonSet`'s controller would make on this node, with what the API server's admission adds, but
/// for a field that a server of an earlier version does not know, and with the tests' image and configuration.
fn agent(minor_version: u32) -> Result<Value> {
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
    if minor_version < APPARMOR_PROFILE {
        let security = container["securityContext"].as_object_mut();
        security
            .context("no securityContext")?
            .remove("appArmorProfile");
    }
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
    let scene = Scene::of(&cluster);
    scene.start()?;
    let Scene {
        agent,
        checkout,
        other,
        elsewhere,
        ..
    } = scene;
    let found = other.wait_for("bystander", |_| true)?;
    ensure!(found["env"] == "hunter2", "{found}");
    let held = |event: &Value| event["type"] == "EXEC" && event["process"] == "checkout";
    agent.wait_for(SIDECAR, held)?;
    for waiting in [&checkout, &other, &elsewhere] {
        let told = waiting.printed("app")?;
        ensure!(told.is_empty(), "it did not wait: {told}");
    }
    with_rights(&cluster)?;
    ensure_both(&checkout.wait_for("app", |_| true)?, "hunter2")?;
    ensure_none(&other.wait_for("app", |_| true)?)?;
    ensure_none(&elsewhere.wait_for("app", |_| true)?)?;
    let sealed = agent.wait_for(SIDECAR, |event| {
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

/// Each object watches its own namespace's pods, narrowed by labels; together they are what is watched, and what one of
/// them asked for ends with it.
fn objects_ask() -> Result<()> {
    let cluster = LentCluster::new()?;
    let scene = Scene::of(&cluster);
    if scene.agent.read().is_err() {
        with_rights(&cluster)?;
        scene.start()?;
    }
    let Scene {
        checkout,
        other,
        elsewhere,
        ..
    } = &scene;
    for pod in [checkout, other, elsewhere] {
        pod.wait_for("app", |_| true)?;
    }
    let of_other = json!({"podSelector": {"matchLabels": {"app": "other"}}});
    scene.ask_for_calls("shop", &of_other)?;
    // Those that are not asked for come first: they would be told by then.
    Scene::call_in(checkout)?;
    Scene::call_in(elsewhere)?;
    let told = scene.told_again(other)?;
    let wanted = json!({
        "container_id": other.id("app")?, "container_name": "app", "pod_name": "other", "pod_namespace": "shop",
    });
    ensure!(
        told["type"] == "SYSCALL" && told["container"] == wanted && told["ret"] == 0,
        "{told}"
    );
    for pod in [checkout, elsewhere] {
        let told = scene.calls_of(pod)?;
        ensure!(told.is_empty(), "nobody asked for {told:?}");
    }

    scene.ask_for_calls("elsewhere", &json!({}))?;
    scene.told_again(elsewhere)?;
    scene.told_again(other)?;
    cluster.server.delete(&object("shop"))?;
    cluster.until("what was asked for ends with who asked", || {
        let before = scene.calls_of(other)?.len();
        Scene::call_in(other)?;
        scene.told_again(elsewhere)?;
        Ok((scene.calls_of(other)?.len() == before).then_some(()))
    })?;
    cluster.server.delete(&object("elsewhere")).map(drop)
}
