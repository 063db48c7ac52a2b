//! A pod that runs: its containers in the kubelet's order, their logs, and commands in them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::identity::Identity;
use crate::manifest::{Files, Manifest};
use crate::node::Node;
use crate::spec;
use crate::volumes::Volumes;
use crate::wire::{CreateContainerRequest, PodSandboxConfig, RUNNING};

static PODS: AtomicU32 = AtomicU32::new(1);

/// A pod; dropping it ends and removes all of it.
#[derive(Debug)]
pub struct Pod<'a> {
    pub(crate) node: &'a Node,
    who: Identity,
    manifest: Manifest,
    volumes: Volumes,
    pub(crate) config: PodSandboxConfig,
    sandbox: String,
    pub(crate) address: String,
    /// Ids by name, and how often each was started.
    pub(crate) containers: BTreeMap<String, (String, u32)>,
}

impl<'a> Pod<'a> {
    /// Makes its volumes and namespaces, and starts its containers as the kubelet does: one init container
    /// after the other, a sidecar being done when its startup probe succeeds, then all others.
    pub fn run(node: &'a Node, manifest: Manifest) -> Result<Self> {
        let begin = Instant::now();
        let mut pod = Self::empty(node, manifest)?;
        println!("sandbox after {:?}", begin.elapsed());
        for name in pod.names("initContainers") {
            pod.start(&name)?;
            pod.wait_started(&name)?;
            println!("{name} ready after {:?}", begin.elapsed());
        }
        for name in pod.names("containers") {
            pod.start(&name)?;
        }
        Ok(pod)
    }

    /// The same without its containers.
    pub fn empty(node: &'a Node, manifest: Manifest) -> Result<Self> {
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let name = manifest.pod["metadata"]["name"]
            .as_str()
            .context("no name")?;
        let share = &manifest.pod["spec"]["shareProcessNamespace"];
        ensure!(
            *share == true,
            "a pod with a sidecar shares its process namespace"
        );
        let who = Identity {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            uid: format!("0a1b2c3d-1111-2222-3333-{number:012x}"),
        };
        let volumes = Volumes::make(node, &who.uid, &manifest)?;
        let config = who.sandbox();
        let log = node.path(&config.log_directory);
        for container in
            names(&manifest.pod, "initContainers").chain(names(&manifest.pod, "containers"))
        {
            fs::create_dir_all(log.join(container))?;
        }
        let sandbox = node.cri.run_sandbox(&config)?;
        let address = node.cri.address(&sandbox)?;
        Ok(Self {
            node,
            who,
            manifest,
            volumes,
            config,
            sandbox,
            address,
            containers: BTreeMap::new(),
        })
    }

    fn names(&self, list: &str) -> Vec<String> {
        names(&self.manifest.pod, list).collect()
    }

    pub(crate) fn spec(&self, name: &str) -> Result<&Value> {
        let spec = &self.manifest.pod["spec"];
        let mut all = ["initContainers", "containers"]
            .into_iter()
            .filter_map(|list| spec[list].as_array())
            .flatten();
        let found = all.find(|container| container["name"] == name);
        found.with_context(|| format!("no container {name}"))
    }

    /// Starts a container, or starts it again.
    pub fn start(&mut self, name: &str) -> Result<()> {
        let attempt = match self.containers.get(name) {
            None => 0,
            Some((old, attempt)) => {
                self.node.cri.remove(old)?;
                attempt + 1
            }
        };
        let spec = self.spec(name)?;
        let config = spec::container(self.node, &self.who, &self.volumes, spec, attempt)?;
        let question = CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self
            .node
            .cri
            .start(question)
            .with_context(|| format!("container {name}"))?;
        self.containers.insert(name.to_owned(), (id, attempt));
        Ok(())
    }

    /// The pod's own.
    pub fn uid(&self) -> &str {
        &self.who.uid
    }

    /// The id of a container.
    pub fn id(&self, name: &str) -> Result<&str> {
        let container = self.containers.get(name);
        Ok(&container
            .with_context(|| format!("{name} was not started"))?
            .0)
    }

    pub fn is_running(&self, name: &str) -> Result<bool> {
        Ok(self.node.cri.status(self.id(name)?)?.state == RUNNING)
    }

    /// Ends a container's program, without asking it first if there are no seconds.
    pub fn stop(&self, name: &str, seconds: i64) -> Result<()> {
        self.node.cri.stop(self.id(name)?, seconds)
    }

    /// Runs a command in a container, whatever its status; gives all it printed.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<String> {
        let answer = self.node.cri.exec(self.id(name)?, command)?;
        let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
        text += &String::from_utf8_lossy(&answer.stderr);
        Ok(text)
    }

    /// The name of the image that a container runs.
    pub fn image(&self, name: &str) -> Result<String> {
        let image = self.node.cri.status(self.id(name)?)?.image;
        Ok(image.context("containerd told no image")?.image)
    }

    /// The number of a container's first process on the node.
    pub fn process(&self, name: &str) -> Result<i64> {
        let info = self.node.cri.info(self.id(name)?)?;
        info["pid"].as_i64().context("no number")
    }

    /// Changes a mounted `ConfigMap` or Secret.
    pub fn update(&self, volume: &str, files: &Files) -> Result<()> {
        self.volumes.update(volume, files)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        if let Err(error) = self.node.cri.remove_sandbox(&self.sandbox) {
            println!("the pod was not removed: {error:#}");
        }
    }
}

fn names(pod: &Value, list: &str) -> impl Iterator<Item = String> {
    let containers = pod["spec"][list].as_array().cloned().unwrap_or_default();
    containers
        .into_iter()
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
}
