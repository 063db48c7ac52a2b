//! The whole of Kubernetes that a pod meets: `kernelseal inject` writes it, the API server keeps it with its Secret and
//! its `ConfigMap`, the kubelet makes its volumes and starts its containers, and the sidecar asks the API.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::registry::Registry;
use kernelseal_servers::{APPARMOR_PROFILE, NATIVE_SIDECARS};
use serde_json::{Value, json};

use crate::attack::{BACKWARDS, FIND_AGENTS, ensure_nothing_leaked};
use crate::cluster::{ClusterPod, LentCluster, injected};
use crate::delivery::SIDECAR;
use crate::manifest::shipped;

const MANIFEST: &str = include_str!("../manifests/stack.yaml");
/// The agent asks the API.
const OPTIONS: [&str; 1] = ["--api-token"];
/// For servers and kubelets without native sidecars, or without the field `appArmorProfile`, which such a sidecar has.
const OPTIONS_BEFORE: [&str; 2] = ["--older-cluster", "--api-token"];
/// The namespace and the Secret that deploy/rbac.yaml is about.
pub const NAMESPACE: &str = "kernelseal";
const SECRET: &str = "/api/v1/namespaces/kernelseal/secrets/backup";
const CONFIG_MAP: &str = "/api/v1/namespaces/kernelseal/configmaps/kernelseal";
/// The first test starts the cluster, too.
pub const LIMIT: Duration = Duration::from_mins(25);
const TELLER: &str = "teller";
/// Asks a new program in a container what it finds.
const ASK: [&str; 3] = [
    "/bin/ash",
    "-c",
    r#"echo "token=$TOKEN extra=$EXTRA dir=$KERNELSEAL_SECRETS_DIR""#,
];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "kubelet::the_application_alone_gets_its_secrets",
            LIMIT,
            the_application,
        )
        .slow_test(
            "kubelet::root_in_another_container_gets_nothing",
            LIMIT,
            an_attacker,
        )
        .slow_test(
            "kubelet::a_secret_changed_in_the_api_arrives",
            LIMIT,
            a_changed_secret,
        )
        .slow_test(
            "kubelet::an_edited_config_map_arrives",
            LIMIT,
            an_edited_config_map,
        )
}

/// The namespace, and the account with its rights, of deploy/rbac.yaml as it is.
pub fn with_rights(cluster: &LentCluster) -> Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    cluster.apply(&namespace.to_string())?;
    cluster.apply(&shipped("rbac.yaml")?)
}

/// The pod, there since the first test that asked for it.
fn teller(cluster: &LentCluster) -> Result<ClusterPod<'_>> {
    let (namespace, name) = (NAMESPACE, TELLER);
    let pod = ClusterPod {
        cluster,
        namespace,
        name,
    };
    if pod.read().is_err() {
        with_rights(cluster)?;
        let is_older = cluster.server.minor_version()? < NATIVE_SIDECARS.max(APPARMOR_PROFILE);
        let options: &[&str] = if is_older { &OPTIONS_BEFORE } else { &OPTIONS };
        println!("sidecars of this server: {options:?}");
        cluster.apply(&injected(MANIFEST, options)?)?;
    }
    Ok(pod)
}

/// Gives the Secret a value, and waits until the program that runs has it, and until the API tells of its container:
/// the kubelet writes there later, and what was started before the agent was ready has ended.
fn with_password(pod: &ClusterPod<'_>, password: &str) -> Result<Value> {
    let server = &pod.cluster.server;
    server.change(SECRET, &json!({"stringData": {"password": password}}))?;
    let line = pod.wait_for_last(TELLER, |line| line["file"] == password)?;
    sealed(pod)?;
    Ok(line)
}

/// The event of the program's sealing in the container that the API tells of, which may still be the one before.
fn sealed(pod: &ClusterPod<'_>) -> Result<Value> {
    pod.wait_for(SIDECAR, |event| {
        let id = event["container"]["container_id"].as_str();
        event["type"] == "SEALED" && id.is_some() && id == pod.id(TELLER).ok().as_deref()
    })
}

fn the_application() -> Result<()> {
    let cluster = LentCluster::new()?;
    let pod = teller(&cluster)?;
    let found = with_password(&pod, "hunter2")?;
    ensure!(found["env"] == "hunter2", "{found}");
    let sealed = sealed(&pod)?;
    let wanted = json!({
        "container_id": pod.id(TELLER)?, "container_name": TELLER, "pod_name": TELLER, "pod_namespace": NAMESPACE,
    });
    ensure!(sealed["container"] == wanted, "{sealed}");
    // `kubectl exec` into the application's container is the application; into another it is not.
    let told = pod.exec(TELLER, &ASK)?;
    ensure!(
        told.starts_with("token=hunter2 extra= dir=/run/kernelseal/secrets/"),
        "{told}"
    );
    let told = pod.exec("other", &ASK)?;
    ensure!(told.trim() == "token= extra= dir=", "{told}");
    // No container but the sidecar has a way to the API.
    for container in [TELLER, "other", "shell"] {
        let told = pod.exec(container, &["ls", "/var/run/secrets"])?;
        ensure!(told.contains("No such file"), "{container}: {told}");
    }
    let told = format!("{}{}", pod.printed(SIDECAR)?, pod.read()?);
    ensure!(!told.contains("hunter2"), "the secret was told");
    Ok(())
}

fn an_attacker() -> Result<()> {
    let cluster = LentCluster::new()?;
    let pod = teller(&cluster)?;
    let target = with_password(&pod, "hunter2")?["pid"].to_string();
    let file = format!("/proc/{target}/root/run/kernelseal/secrets/{target}/TOKEN");
    let told = pod.exec("shell", &["attack", "all", &target, BACKWARDS, &file])?;
    ensure_nothing_leaked(&told)?;
    pod.ensure_refused("shell", &file)?;
    // The agent's way to the API is no way for others.
    let agents = pod.exec("shell", &FIND_AGENTS)?;
    ensure!(!agents.trim().is_empty(), "the shell sees no agent");
    let mut refusals = 0;
    for agent in agents.lines() {
        for file in [
            "environ",
            "mem",
            "root/var/run/secrets/kubernetes.io/serviceaccount/token",
        ] {
            let refused = pod.ensure_refused("shell", &format!("/proc/{agent}/{file}"));
            if refused.is_err() {
                // (on a busy machine the kubelet may start it anew in between)
                let now = pod.exec("shell", &FIND_AGENTS)?;
                ensure!(!now.lines().any(|now| now == agent), "{refused:?}");
                break;
            }
            refusals += 1;
        }
    }
    ensure!(refusals >= 3, "no agent was there for all of it: {agents}");
    let blocked = |event: &Value| event["type"] == "BLOCKED" && event["process"] == "cat";
    pod.wait_for(SIDECAR, blocked)?;
    let starts = pod.status(TELLER)?["restartCount"].clone();
    pod.wait_for(TELLER, |line| line["file"] == "hunter2")?;
    ensure!(
        starts == pod.status(TELLER)?["restartCount"],
        "the application did not live through it"
    );
    Ok(())
}

fn a_changed_secret() -> Result<()> {
    let cluster = LentCluster::new()?;
    let pod = teller(&cluster)?;
    let before = with_password(&pod, "hunter2")?;
    let after = with_password(&pod, "correct-horse")?;
    ensure!(
        after["pid"] == before["pid"],
        "{before} and {after} are of two programs"
    );
    let rotated = pod.wait_for(SIDECAR, |event| {
        event["type"] == "ROTATED" && event["pid"] == after["pid"]
    })?;
    ensure!(rotated["files"] == json!(["TOKEN"]), "{rotated}");
    let told = pod.exec(TELLER, &ASK)?;
    ensure!(told.starts_with("token=correct-horse "), "{told}");
    Ok(())
}

/// The kubelet swaps the link of the mounted `ConfigMap`, and the agent goes by the new one.
fn an_edited_config_map() -> Result<()> {
    let cluster = LentCluster::new()?;
    let pod = teller(&cluster)?;
    with_password(&pod, "hunter2")?;
    let server = &cluster.server;
    let before = server.read(CONFIG_MAP)?["data"].clone();
    let text = before["config.yaml"].as_str().context("no configuration")?;
    let more = format!("{text}      - {{name: EXTRA, source: {{value: of the edit}}}}\n");
    server.change(CONFIG_MAP, &json!({"data": {"config.yaml": more}}))?;
    let seen = cluster.until("the edit is in force", || {
        let told = pod.exec(TELLER, &ASK)?;
        Ok(told.contains("extra=of the edit").then_some(told))
    })?;
    ensure!(seen.starts_with("token=hunter2 "), "{seen}");
    let told = pod.exec("other", &ASK)?;
    ensure!(told.trim() == "token= extra= dir=", "{told}");
    server.change(CONFIG_MAP, &json!({"data": before}))?;
    cluster.until("the edit is taken back", || {
        Ok(pod.exec(TELLER, &ASK)?.contains("extra= ").then_some(()))
    })
}
