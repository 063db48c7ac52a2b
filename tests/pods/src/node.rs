//! The node: containerd on a disk of the guest's, with the images of these tests.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernelseal_integration::{probe, system};
use serde_json::json;

use crate::cri::Cri;
use crate::image::Image;

/// The sidecar's image, the application's, and the one that holds a pod's namespaces.
pub const KERNELSEAL: &str = "localhost/kernelseal:test";
pub const SHOP: &str = "localhost/shop:test";
/// An application that needs no command, for deploy/sidecar-pod.yaml.
pub const CHECKOUT: &str = "localhost/checkout:test";
pub const PAUSE: &str = "localhost/pause:test";
const READY: Duration = Duration::from_mins(1);
const CONTAINERD: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#;
/// Each pod has a wire to the node, by which it reaches all that the node does, and an address.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}"#;

/// A machine that runs pods.
#[derive(Debug)]
pub struct Node {
    /// Its root, as the tests see it.
    pub root: PathBuf,
    /// Its containerd.
    pub cri: Cri,
    containerd: Child,
}

static NODE: Mutex<Option<Node>> = Mutex::new(None);

/// Lends the one node there is, and starts it for the first test.
#[derive(Debug)]
pub struct Lent(MutexGuard<'static, Option<Node>>);

impl Lent {
    pub fn new() -> Result<Self> {
        let mut node = NODE.lock().unwrap_or_else(PoisonError::into_inner);
        if node.is_none() {
            *node = Some(Node::start()?);
        }
        Ok(Self(node))
    }
}

impl std::ops::Deref for Lent {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.0.as_ref().expect("it was started")
    }
}

impl Node {
    fn start() -> Result<Self> {
        let root = disk()?;
        write(&root, "etc/containerd/config.toml", CONTAINERD)?;
        write(&root, "etc/cni/net.d/10-pods.conflist", NETWORK)?;
        write(&root, "var/log/containerd.log", "")?;
        let log = root.join("var/log/containerd.log");
        let mut containerd = system::command(&root, "/usr/bin/containerd")?
            .args(["--log-level", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start containerd")?;
        let socket = root.join("run/containerd/containerd.sock");
        let begin = Instant::now();
        let cri = loop {
            match Cri::connect(&socket) {
                Ok(cri) => break cri,
                Err(error) if begin.elapsed() > READY || containerd.try_wait()?.is_some() => {
                    let told = fs::read_to_string(&log)?;
                    return Err(error.context(format!("containerd does not answer:\n{told}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        };
        let node = Self {
            root,
            cri,
            containerd,
        };
        node.import_images()?;
        println!("the node was up in {:?}", begin.elapsed());
        Ok(node)
    }

    /// A path of the node's as the tests see it.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.root.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A path of the tests' as the node sees it.
    pub fn inside(&self, outside: &Path) -> Result<String> {
        let inside = Path::new("/").join(outside.strip_prefix(&self.root)?);
        Ok(inside.to_string_lossy().into_owned())
    }

    /// A command with the node's root that sees containerd's mounts, and whose mounts containerd sees.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-m", "-t", &self.containerd.id().to_string(), program])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .stdin(Stdio::null());
        command
    }

    fn import_images(&self) -> Result<()> {
        let busybox = "/usr/bin/busybox";
        let kernelseal = env::var_os("KERNELSEAL_BIN")
            .map_or_else(|| "/usr/bin/kernelseal".into(), PathBuf::from);
        // As in the Dockerfile.
        Image::new(
            KERNELSEAL,
            json!({"Entrypoint": ["/kernelseal"], "Cmd": ["run"]}),
        )
        .with(kernelseal, "/kernelseal")
        .import(&self.root)?;
        Image::new(SHOP, json!({"Env": ["PATH=/bin"]}))
            .with(busybox, "/bin/busybox")
            // A copy, for a program that is known by its own path.
            .with(busybox, "/bin/ash")
            .with(probe::path("probe-static")?, "/bin/checkout")
            .with(probe::path("probe-static")?, "/usr/local/bin/checkout")
            .with(probe::path("attack")?, "/bin/attack")
            .import(&self.root)?;
        let command = [
            "/usr/local/bin/checkout",
            "--env",
            "DB_PASSWORD",
            "--file",
            "DB_PASSWORD",
            "--sleep",
            "3600",
        ];
        Image::new(CHECKOUT, json!({"Entrypoint": command}))
            .with(probe::path("probe-static")?, "/usr/local/bin/checkout")
            .import(&self.root)?;
        // It collects those whose parents are gone, as a pod's first process should.
        let collect = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
        Image::new(
            PAUSE,
            json!({"Entrypoint": ["/bin/sh", "-c", collect], "Env": ["PATH=/bin"]}),
        )
        .with(busybox, "/bin/busybox")
        .import(&self.root)
    }
}

/// The root of the disk with containerd and docker.
pub fn disk() -> Result<PathBuf> {
    system::disk(
        "KERNELSEAL_PODS",
        "/pods",
        "usr/bin/containerd",
        "make guest-pods",
    )
}

/// Writes a file of the node's.
pub fn write(root: &Path, place: &str, text: &str) -> Result<()> {
    let file = root.join(place);
    fs::create_dir_all(file.parent().context("no folder")?)?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}
