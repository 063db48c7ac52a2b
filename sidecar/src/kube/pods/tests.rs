//! A node's pods, told by a real API server (`make test-kube`).

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::kube::config::Kubeconfig;
use kernelseal_servers::{AGENT_TOKEN, ApiServer, Proxy};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::{kube::Cluster, util::RetryPolicy};

/// Until then, what is to happen has happened.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
const POLL_POLICY: PollPolicy = PollPolicy {
    retry_policy: RetryPolicy {
        answer_within: Duration::from_secs(2),
        retry_after: Duration::from_millis(100),
        retry_after_many: Duration::from_millis(500),
    },
    watch_for: Duration::from_secs(3),
    apart: Duration::from_millis(50),
};

/// What an agent on a node hears, with the rights that deploy/ gives.
struct Scene {
    server: &'static ApiServer,
    proxy: Proxy,
    namespace: &'static str,
    runtime: Runtime,
    heard: Arc<Mutex<Vec<Result<PodNews, Fault>>>>,
    _folder: TempDir,
}

impl Scene {
    fn new(namespace: &'static str, node: &str) -> Self {
        let server = ApiServer::shared();
        server.namespace(namespace).unwrap();
        let proxy = Proxy::before(server).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = server
            .kubeconfig(folder.path(), proxy.url(), namespace, AGENT_TOKEN)
            .unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (tell, node) = (heard.clone(), node.to_owned());
        runtime.block_on(async {
            let cluster = Cluster::of(Kubeconfig::read_from(file).unwrap())
                .await
                .unwrap();
            let client = cluster.client().unwrap();
            tokio::spawn(watch_pods(
                client,
                node,
                POLL_POLICY,
                || {},
                move |news| {
                    tell.lock().unwrap().push(news);
                },
            ));
        });
        Self {
            server,
            proxy,
            namespace,
            runtime,
            heard,
            _folder: folder,
        }
    }

    /// Makes a pod, or gives it another label; its uid.
    fn pod(&self, name: &str, node: &str, app: &str) -> String {
        let made = self.server.apply_document(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "app", "image": "registry.example/app:1", "env": [{"name": "A", "value": "hunter2"}]}]},
        }));
        made.unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn delete(&self, name: &str) {
        let namespace = self.namespace;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0");
        self.server.delete(&path).unwrap();
    }

    /// Waits for news that `choose` finds something in.
    fn hear<T>(&self, what: &str, choose: impl Fn(&Result<PodNews, Fault>) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let news: Vec<_> = self.heard.lock().unwrap().drain(..).collect();
            if let Some(found) = news.iter().find_map(&choose) {
                return found;
            }
            assert!(
                begun.elapsed() < SOON,
                "not {what} within {SOON:?}: {news:?}"
            );
            self.runtime
                .block_on(async { tokio::time::sleep(STEP).await });
        }
    }
}

#[test]
fn the_pods_of_the_node_alone_are_told_as_they_come_change_and_go() {
    let scene = Scene::new("pods-of-a-node", "node-1");
    scene.server.allow_node_agent().unwrap();
    let (first, other) = (
        scene.pod("first", "node-1", "a"),
        scene.pod("other", "node-2", "a"),
    );
    let is = |uid: &str, app: &str, news: &Result<PodNews, Fault>| {
        let pods = match news {
            Ok(PodNews::All(pods)) => pods.clone(),
            Ok(PodNews::Is(pod)) => vec![pod.clone()],
            _ => Vec::new(),
        };
        assert!(
            pods.iter().all(|pod| pod.uid != other),
            "of another node: {pods:?}"
        );
        pods.into_iter()
            .find(|pod| pod.uid == uid && pod.labels.get("app").is_some_and(|it| it == app))
    };
    let told = scene.hear("there", |news| is(&first, "a", news));
    assert_eq!(
        (told.name.as_str(), told.namespace.as_str()),
        ("first", scene.namespace)
    );
    assert!(told.since.is_some() && told.mirrors.is_none());
    scene.pod("first", "node-1", "b");
    scene.hear("changed", |news| is(&first, "b", news));
    scene.delete("first");
    scene.hear("gone", |news| {
        (*news == Ok(PodNews::Gone(first.clone()))).then_some(())
    });
    // Another of that name is another.
    let second = scene.pod("first", "node-1", "a");
    assert_ne!(first, second);
    scene.hear("there again", |news| is(&second, "a", news));
    // Cut off, it lists anew, and has what happened meanwhile.
    scene.proxy.set(kernelseal_servers::Fault::Away);
    scene.hear("trouble", |news| {
        news.as_ref().err().map(Fault::tell_of_pods)
    });
    scene.delete("first");
    let third = scene.pod("third", "node-1", "c");
    scene.proxy.set(kernelseal_servers::Fault::None);
    scene.hear("there after all", |news| is(&third, "c", news));
}

#[test]
fn a_refusal_names_the_rule_for_pods() {
    // Of a server of its own: elsewhere the rule may be there already.
    let server = ApiServer::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = server
        .kubeconfig(folder.path(), server.url(), "default", AGENT_TOKEN)
        .unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let said = runtime.block_on(async {
        let cluster = Cluster::of(Kubeconfig::read_from(file).unwrap())
            .await
            .unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let client = cluster.client().unwrap();
        let watching = watch_pods(
            client,
            "node-1".into(),
            POLL_POLICY,
            || {},
            move |news| {
                let _ = tell.send(news.err().map(|fault| fault.tell_of_pods()));
            },
        );
        tokio::select! {
            () = watching => None,
            said = told.recv() => said.flatten(),
        }
    });
    let said = said.unwrap();
    assert!(said.starts_with("agent may not read them (403)"), "{said}");
    let rule =
        r#"a ClusterRole with the rule {apiGroups: [""], resources: [pods], verbs: [list, watch]}"#;
    assert!(said.to_lowercase().contains(&rule.to_lowercase()), "{said}");
}
