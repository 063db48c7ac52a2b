//! Events that a real API server takes (`make test-kube`).

use ::kube::config::Kubeconfig;
use k8s_openapi::jiff::Timestamp;
use kernelseal_servers::{AGENT_TOKEN, ApiServer};
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::*;
use crate::{kube::Cluster, process::PodRef};

const NAMESPACE: &str = "pod-events";

fn event(uid: &str, topic: Topic, count: u64, note: &str) -> PodEvent {
    PodEvent {
        pod: PodRef {
            namespace: NAMESPACE.into(),
            name: "web-1".into(),
            uid: Some(uid.into()),
        },
        topic,
        note: note.into(),
        count,
        first: Timestamp::now(),
        last: Timestamp::now(),
    }
}

#[test]
fn events_on_a_pod_need_the_right_that_deploy_gives_and_tell_how_often() {
    let server = ApiServer::shared();
    server.namespace(NAMESPACE).unwrap();
    let pod = server.apply_document(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": NAMESPACE},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "registry.example/app:1"}]},
    }));
    let uid = pod.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = server
        .kubeconfig(folder.path(), server.url(), NAMESPACE, AGENT_TOKEN)
        .unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let write = |event: &PodEvent| {
        runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(&file).unwrap();
            let client = Cluster::of(kubeconfig).await.unwrap().client().unwrap();
            let pen = EventPen::of_node(client, "node-1", PollPolicy::default());
            pen.write(event).await
        })
    };
    // (once deploy/rbac.yaml is applied it is for every namespace, and another test may have done so)
    if let Err(fault) = write(&event(&uid, Topic::GuardLost, 1, "first")) {
        let told = fault.tell_of_pod_events();
        assert!(told.contains("agent may not make events (403)"), "{told}");
    }
    server.allow_node_agent().unwrap();
    write(&event(&uid, Topic::ConfigRejected, 1, "wrong")).unwrap();
    write(&event(
        &uid,
        Topic::Refused,
        6_000,
        &"very long ".repeat(500),
    ))
    .unwrap();
    let events = server.read(&format!(
        "/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
    ));
    let events = events.unwrap();
    let of = |reason: &str| -> Value {
        let mut all = events["items"].as_array().unwrap().iter();
        all.find(|event| event["reason"] == reason).unwrap().clone()
    };
    let rejected = of("ConfigRejected");
    assert_eq!(rejected["regarding"]["uid"], uid.as_str());
    assert_eq!(rejected["note"], "wrong");
    assert_eq!(rejected["type"], "Warning");
    assert_eq!(rejected["reportingInstance"], "node-1");
    assert!(rejected["series"].is_null());
    assert_eq!(of("SecretsRefused")["series"]["count"], 6_000);
}
