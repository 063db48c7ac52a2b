//! A cluster of one node: etcd, API server and kubelet as they are, and the node's containerd. The control plane is not
//! emulated, but on the machine that emulates the node, as others are on machines of their own. Nothing plays a
//! part of Kubernetes here but what a single test's pod can do without: the scheduler (pods name their node) and the
//! controllers (what those would make of a workload or a namespace, the manifests have).

use std::fs;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::process::run;
use kernelseal_integration::scratch::Scratch;
use kernelseal_servers::{Administrator, SERVICE};
use serde_json::{Value, json};

use crate::control_plane;
use crate::kubelet::{self, Kubelet};
use crate::log;
use crate::node::{KERNELSEAL, Lent, Node};

/// How long a pod may take to be what it is to be, in emulation, the kubelet's waits between starts included.
const SOON: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(200);

/// See the module.
pub struct Cluster {
    pub server: Administrator,
    kubelet: Mutex<Kubelet>,
}

static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

/// Lends the one cluster there is, with its node, and starts it for the first test.
pub struct LentCluster {
    node: Lent,
    cluster: MutexGuard<'static, Option<Cluster>>,
}

impl LentCluster {
    pub fn new() -> Result<Self> {
        let node = Lent::new()?;
        let mut cluster = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        if cluster.is_none() {
            *cluster = Some(Cluster::start(&node)?);
        }
        Ok(Self { node, cluster })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }
}

impl std::ops::Deref for LentCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().expect("it was started")
    }
}

impl Cluster {
    fn start(node: &Node) -> Result<Self> {
        let begin = Instant::now();
        let address = SERVICE.ip().to_string();
        kubelet::give_address(&address)?;
        let authority = control_plane::lead_to(SERVICE)?;
        let server = Administrator::new(SERVICE, &authority)?;
        let kubelet = Mutex::new(Kubelet::start(node, &server, &address)?);
        let cluster = Self { server, kubelet };
        cluster.until("the node is registered", || {
            Ok(cluster.server.read("/api/v1/nodes/guest").ok())
        })?;
        println!("the node was up after {:?}", begin.elapsed());
        Ok(cluster)
    }

    /// Applies all of a manifest. A namespace gets what Kubernetes' controllers put into each.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
        for mut document in documents {
            if document["kind"] == "Pod" {
                // The scheduler's part.
                document["spec"]["nodeName"] = kubelet::NODE.into();
            }
            self.server.apply_document(&document)?;
            if document["kind"] == "Namespace" {
                let authority = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "kube-root-ca.crt", "namespace": document["metadata"]["name"]},
                    "data": {"ca.crt": self.server.authority_pem()},
                });
                self.server.apply_document(&authority)?;
            }
        }
        Ok(())
    }

    /// Waits for something, and tells how the kubelet is if it does not come.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if begin.elapsed() > SOON {
                let told = self
                    .kubelet
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .told();
                bail!("not within {SOON:?}: {what}\n{told}");
            }
            thread::sleep(POLL);
        }
    }
}

/// What `kernelseal inject` makes of a manifest.
pub fn injected(manifest: &str, options: &[&str]) -> Result<String> {
    let scratch = Scratch::new()?;
    let file = scratch.file("app.yaml", manifest)?;
    let mut inject: Command = Agent::command(&["inject", "--image", KERNELSEAL, "-f"]);
    run(inject.arg(file).args(options))
}

/// A pod in the cluster.
pub struct ClusterPod<'a> {
    pub cluster: &'a LentCluster,
    pub namespace: &'static str,
    pub name: &'static str,
}

impl ClusterPod<'_> {
    /// As the API has it now.
    pub fn read(&self) -> Result<Value> {
        let (namespace, name) = (self.namespace, self.name);
        self.cluster
            .server
            .read(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))
    }

    /// The id of a container's last start.
    pub fn id(&self, container: &str) -> Result<String> {
        let status = self.status(container)?;
        let id = status["containerID"]
            .as_str()
            .context("it was not started")?;
        Ok(id
            .strip_prefix("containerd://")
            .context("another runtime's")?
            .to_owned())
    }

    /// What the kubelet tells of a container, which may be a native sidecar.
    pub fn status(&self, container: &str) -> Result<Value> {
        let pod = self.read()?;
        let lists = ["containerStatuses", "initContainerStatuses"];
        let all = lists
            .iter()
            .filter_map(|list| pod["status"][list].as_array());
        let found = all
            .flatten()
            .find(|status| status["name"] == container)
            .cloned();
        found.with_context(|| {
            format!(
                "the kubelet tells nothing of {container}: {}",
                pod["status"]
            )
        })
    }

    /// Runs a command in a container, as `kubectl exec` does by the kubelet; gives all it printed.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let answer = self
            .cluster
            .node()
            .cri
            .exec(&self.id(container)?, command)?;
        let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
        text += &String::from_utf8_lossy(&answer.stderr);
        Ok(text)
    }

    /// What a container printed, in all its starts.
    pub fn printed(&self, container: &str) -> Result<String> {
        self.log(container, &["stdout"])
    }

    fn log(&self, container: &str, streams: &[&str]) -> Result<String> {
        let pod = self.read()?;
        let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
        let (namespace, name) = (self.namespace, self.name);
        let folder = format!("/var/log/pods/{namespace}_{name}_{uid}/{container}");
        let mut files: Vec<_> = fs::read_dir(self.cluster.node().path(folder))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort();
        Ok(files.iter().map(|file| log::text(file, streams)).collect())
    }

    /// The first line of JSON that a container prints for which `wanted` holds.
    pub fn wait_for(&self, container: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(container, |lines| {
            lines.iter().find(|line| wanted(line)).cloned()
        })
    }

    /// The same for what it printed last.
    pub fn wait_for_last(&self, container: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(container, |lines| {
            lines.last().filter(|line| wanted(line)).cloned()
        })
    }

    fn wait(&self, container: &str, choose: impl Fn(&[Value]) -> Option<Value>) -> Result<Value> {
        let found = self.cluster.until("a line of a container's", || {
            let text = self.printed(container)?;
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            Ok(choose(&lines.collect::<Vec<Value>>()))
        });
        found.with_context(|| {
            let logs = ["kernelseal", container].map(|container| {
                let text = self.log(container, &["stdout", "stderr"]);
                format!("--- {container}:\n{}", text.unwrap_or_default())
            });
            let pod = self.read().unwrap_or_default();
            format!("{container}: {}\n{}", pod["status"], logs.join("\n"))
        })
    }

    /// Fails unless a container that is wanted there is refused what it asks for.
    pub fn ensure_refused(&self, container: &str, file: &str) -> Result<()> {
        let told = self.exec(container, &["cat", file])?;
        ensure!(
            told.contains("Operation not permitted") || told.contains("Permission denied"),
            "{file}: {told}"
        );
        Ok(())
    }
}
