//! Objects that ask for system calls, at a real API server (`make test-kube`).

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::kube::config::Kubeconfig;
use kernelseal_servers::{AGENT_TOKEN, ApiServer};
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
        answer_within: Duration::from_secs(5),
        retry_after: Duration::from_millis(100),
        retry_after_many: Duration::from_millis(500),
    },
    watch_for: Duration::from_secs(3),
    apart: Duration::from_millis(20),
};
/// `KubeWard`'s own definition, as it hands it out (deployments/kubeward.yaml).
const KUBEWARDS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: kubewards.kubeward.kubeward
spec:
  group: kubeward.kubeward
  scope: Cluster
  names: {plural: kubewards, singular: kubeward, kind: KubeWard, shortNames: [kw]}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                kprobe: {type: array, items: {type: object, properties: {name: {type: string}}}}
                kretprobe: {type: array, items: {type: object, properties: {name: {type: string}}}}
";

type Told = Arc<Mutex<Vec<Result<ObjectNews, Fault>>>>;

/// A server that knows our kind, and who asks it with the rights that deploy/ gives.
struct Scene {
    server: &'static ApiServer,
    namespace: &'static str,
    runtime: Runtime,
    folder: TempDir,
}

impl Scene {
    fn new(namespace: &'static str) -> Self {
        let server = ApiServer::shared();
        server.namespace(namespace).unwrap();
        server.allow_node_agent().unwrap();
        let scene = Self {
            server,
            namespace,
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        scene.define(
            &definition(),
            "/apis/kernelseal.io/v1alpha1/syscallmonitors",
        );
        scene
    }

    /// Makes a kind known, and waits until it is.
    fn define(&self, definition: &str, path: &str) {
        let document: Value = serde_saphyr::from_str(definition).unwrap();
        self.server.apply_document(&document).unwrap();
        let begun = Instant::now();
        while let Err(e) = self.server.read(path) {
            assert!(begun.elapsed() < SOON, "{e:#}");
            std::thread::sleep(STEP);
        }
    }

    fn client(&self) -> Client {
        let (server, folder) = (self.server, self.folder.path());
        let file = server.kubeconfig(folder, server.url(), self.namespace, AGENT_TOKEN);
        let kubeconfig = Kubeconfig::read_from(file.unwrap()).unwrap();
        self.runtime.block_on(async {
            let cluster = Cluster::of(kubeconfig).await.unwrap();
            cluster.client().unwrap()
        })
    }

    fn listen(&self, kind: ObjectKind) -> Told {
        let told = Told::default();
        let tell = told.clone();
        let tell = move |news| tell.lock().unwrap().push(news);
        let watching = watch_objects(self.client(), kind, POLL_POLICY, || {}, tell);
        self.runtime.spawn(watching);
        told
    }

    fn apply(&self, name: &str, spec: &Value) -> anyhow::Result<Value> {
        self.server.apply_document(&json!({
            "apiVersion": "kernelseal.io/v1alpha1", "kind": "SyscallMonitor",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        }))
    }

    fn path(&self, name: &str) -> String {
        let namespace = self.namespace;
        format!("/apis/kernelseal.io/v1alpha1/namespaces/{namespace}/syscallmonitors/{name}")
    }

    /// Waits for news that `choose` finds something in.
    fn hear<T>(
        &self,
        told: &Told,
        what: &str,
        choose: impl Fn(&Result<ObjectNews, Fault>) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            let news: Vec<_> = told.lock().unwrap().drain(..).collect();
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

/// The object of that name, in news that have it.
fn named(name: &str, news: &Result<ObjectNews, Fault>) -> Option<AskingObject> {
    let all = match news {
        Ok(ObjectNews::All(all)) => all.clone(),
        Ok(ObjectNews::Is(object)) => vec![(**object).clone()],
        _ => Vec::new(),
    };
    all.into_iter().find(|object| object.id.name == name)
}

#[test]
fn the_server_takes_what_is_right_and_refuses_the_rest_with_a_reason() {
    let scene = Scene::new("objects-judged");
    scene
        .apply("right", &json!({
            "categories": ["network"], "names": ["openat"], "containers": ["app"], "failed": true,
            "podSelector": {
                "matchLabels": {"app": "shop"},
                "matchExpressions": [{"key": "tier", "operator": "Exists"}],
            },
            "uids": [0, 4_294_967_295_u32],
        }))
        .unwrap();
    let example = include_str!("../../../../deploy/examples/syscallmonitor.yaml");
    let example: Value = serde_saphyr::from_str(example).unwrap();
    scene.apply("example", &example["spec"]).unwrap();
    for (spec, reason) in [
        (
            json!({}),
            "must validate at least one schema (anyOf), spec.categories: Required value",
        ),
        (json!({"names": []}), "should have at least 1 items"),
        (
            json!({"names": ["open_at"]}),
            "Unsupported value: \"open_at\": supported values: \"open\"",
        ),
        (
            json!({"categories": ["files"]}),
            "Unsupported value: \"files\"",
        ),
        (json!({"names": ["openat", "openat"]}), "duplicate"),
        (
            json!({"names": ["openat"], "podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
            "Unsupported value: \"Like\"",
        ),
        (
            json!({"names": ["openat"], "uids": [-1]}),
            "greater than or equal to 0",
        ),
        (
            json!({"names": ["openat"], "ratePerSecond": 5}),
            "ratePerSecond",
        ),
    ] {
        let said = format!("{:#}", scene.apply("wrong", &spec).unwrap_err());
        assert!(said.contains(reason), "{spec}: {said}");
    }
}

#[test]
fn objects_are_told_as_they_come_change_and_go() {
    let scene = Scene::new("objects-watched");
    scene.apply("first", &json!({"names": ["openat"]})).unwrap();
    let told = scene.listen(ObjectKind::SyscallMonitor);
    let first = scene.hear(&told, "there", |news| named("first", news));
    let asked = first.asked.unwrap();
    assert_eq!(asked.namespace.as_deref(), Some(scene.namespace));
    assert_eq!(asked.names, ["openat"]);
    assert!(first.since.is_some());
    scene
        .apply("second", &json!({"categories": ["network"]}))
        .unwrap();
    scene.hear(&told, "there, too", |news| named("second", news));
    scene.apply("first", &json!({"names": ["close"]})).unwrap();
    let changed = scene.hear(&told, "changed", |news| named("first", news));
    assert_eq!(changed.uid, first.uid);
    assert_eq!(changed.generation, first.generation + 1);
    assert_eq!(changed.asked.unwrap().names, ["close"]);
    scene.server.delete(&scene.path("first")).unwrap();
    scene.hear(&told, "gone", |news| {
        matches!(news, Ok(ObjectNews::Gone(uid)) if *uid == first.uid).then_some(())
    });
}

#[test]
fn every_node_says_its_own_in_the_status_and_leaves_the_others_be() {
    let scene = Scene::new("objects-status");
    scene
        .apply("watched", &json!({"names": ["openat"]}))
        .unwrap();
    let told = scene.listen(ObjectKind::SyscallMonitor);
    let object = scene.hear(&told, "there", |news| named("watched", news));
    let client = scene.client();
    let _here = scene.runtime.enter();
    let say = |node: &str, error: Option<&str>| {
        let said = NodeStatus {
            name: node.into(),
            observed_generation: object.generation,
            attached: vec!["openat".into()],
            probes: 1,
            tracepoints: 0,
            error: error.map(Into::into),
        };
        let pen = StatusPen::of_node(client.clone(), node, POLL_POLICY);
        let done = scene.runtime.block_on(pen.write(&object, Some(&said)));
        assert_eq!(done, Ok(()));
        said
    };
    let (one, two) = (say("node-1", None), say("node-2", Some("no memory")));
    let both = |news: &Result<ObjectNews, Fault>| {
        let object = named("watched", news)?;
        let found = object.status_of("node-1").zip(object.status_of("node-2"))?;
        Some((found, object))
    };
    let (found, seen) = scene.hear(&told, "said", both);
    assert_eq!(found, (one, two));
    assert_eq!(
        seen.generation, object.generation,
        "nobody asked for anything"
    );
    let status = || scene.server.read(&scene.path("watched")).unwrap()["status"].clone();
    assert_eq!(status()["attachedOn"], json!(["node-1"]));
    // A node says something else, and another nothing more.
    say("node-2", None);
    let pen = StatusPen::of_node(client.clone(), "node-1", POLL_POLICY);
    let done = scene.runtime.block_on(pen.write(&object, None));
    assert_eq!(done, Ok(()));
    let nodes = status()["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(nodes[0]["name"], "node-2");
    assert_eq!(status()["attachedOn"], json!(["node-2"]));
    // Of an object that is gone nothing can be said, and that is well.
    scene.server.delete(&scene.path("watched")).unwrap();
    say("node-2", None);
    assert!(scene.server.read(&scene.path("watched")).is_err());
}

#[test]
fn kubewards_objects_are_read_as_soon_as_there_is_the_kind() {
    let scene = Scene::new("objects-of-others");
    let told = scene.listen(ObjectKind::KubeWard);
    scene.hear(&told, "unknown", |news| {
        news.as_ref()
            .err()
            .filter(|fault| fault.is_unknown())
            .map(|_| ())
    });
    scene.define(KUBEWARDS, "/apis/kubeward.kubeward/v1/kubewards");
    let document = json!({
        "apiVersion": "kubeward.kubeward/v1", "kind": "KubeWard", "metadata": {"name": "monitor-policy"},
        "spec": {
            "kprobe": [{"name": "sys_openat"}, {"name": "sys_execve"}],
            "kretprobe": [{"name": "sys_openat"}],
        },
    });
    scene.server.apply_document(&document).unwrap();
    let found = scene.hear(&told, "there", |news| named("monitor-policy", news));
    let asked = found.asked.unwrap();
    assert_eq!(asked.names, ["execve", "openat"]);
    assert_eq!((asked.namespace, found.id.namespace), (None, None));
}

#[test]
fn a_refusal_names_the_rule() {
    // Of a server of its own: elsewhere the rule may be there already.
    let server = ApiServer::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = server.kubeconfig(folder.path(), server.url(), "default", AGENT_TOKEN);
    let kubeconfig = Kubeconfig::read_from(file.unwrap()).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let kind = ObjectKind::SyscallMonitor;
    let said = runtime.block_on(async {
        let client = Cluster::of(kubeconfig).await.unwrap().client().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let watching = watch_objects(
            client,
            kind,
            POLL_POLICY,
            || {},
            move |news| {
                let _ = tell.send(news.err().map(|fault| fault.tell_of_objects(kind)));
            },
        );
        tokio::select! {
            () = watching => None,
            said = told.recv() => said.flatten(),
        }
    });
    let said = said.unwrap();
    let rule = "{apiGroups: [kernelseal.io], resources: [syscallmonitors], verbs: [list, watch]}";
    assert!(said.contains("403") && said.contains(rule), "{said}");
}
