//! A real kubelet on the node, beside containerd.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};
use kernelseal_servers::{ADMIN_TOKEN, Administrator};
use serde_json::json;

use crate::node::{Node, PAUSE, write};

/// The node's name in the cluster.
pub const NODE: &str = "guest";
/// Where the node has it.
const PROGRAM: &str = "/usr/bin/kubelet";
const LOG: &str = "var/log/kubelet.log";
const SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Lines of its log that are of use when something fails.
const TOLD: usize = 40;

/// A kubelet that runs; it ends with the guest.
#[derive(Debug)]
pub struct Kubelet {
    process: Child,
    log: PathBuf,
}

impl Kubelet {
    /// Starts the kubelet that `KERNELSEAL_KUBELET` names, for a node of this address.
    pub fn start(node: &Node, server: &Administrator, address: &str) -> Result<Self> {
        let program = env::var_os("KERNELSEAL_KUBELET").map(PathBuf::from);
        let Some(program) = program.filter(|program| program.is_file()) else {
            bail!(
                "there is no kubelet: KERNELSEAL_KUBELET names none; run `make guest-kubelet`, which gives it to the guest"
            );
        };
        let place = node.path(PROGRAM);
        fs::copy(program, &place).context("copy the kubelet to the node")?;
        fs::set_permissions(&place, PermissionsExt::from_mode(0o755))?;
        lend_programs(node)?;
        write(&node.root, "etc/kubernetes/ca.crt", server.authority_pem())?;
        write(
            &node.root,
            "etc/kubernetes/kubeconfig",
            &kubeconfig(server.url()),
        )?;
        write(&node.root, "etc/kubernetes/kubelet", &configuration())?;
        write(&node.root, LOG, "")?;
        let log = node.path(LOG);
        let mut command = node.command(PROGRAM);
        command
            .args([
                "--config=/etc/kubernetes/kubelet",
                "--kubeconfig=/etc/kubernetes/kubeconfig",
            ])
            .arg(format!("--hostname-override={NODE}"))
            .arg(format!("--node-ip={address}"))
            .arg(format!("--container-runtime-endpoint={SOCKET}"))
            .arg("--v=2");
        // Kubelets of before 1.27 know other runtimes than CRI's, and all of before 1.35 look after this image.
        let help = help(node)?;
        if help.contains("--container-runtime string") {
            command.arg("--container-runtime=remote");
        }
        if help.contains("--pod-infra-container-image string") {
            command.arg(format!("--pod-infra-container-image={PAUSE}"));
        }
        let process = command
            .envs(env::vars_os().filter(|(name, _)| name == "GOGC"))
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .context("cannot start the kubelet")?;
        Ok(Self { process, log })
    }

    /// How it is, for a message: whether it runs, and the end of what it complained about.
    pub fn told(&mut self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let complaints = text
            .lines()
            .filter(|line| line.starts_with(['E', 'F', 'W']));
        let mut last: Vec<&str> = complaints.rev().take(TOLD).collect();
        last.reverse();
        format!(
            "kubelet: ended {:?}\n{}",
            self.process.try_wait(),
            last.join("\n")
        )
    }
}

fn help(node: &Node) -> Result<String> {
    let output = node.command(PROGRAM).arg("--help").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text + &String::from_utf8_lossy(&output.stderr))
}

/// The kubelet mounts volumes by programs, and measures logs by others.
fn lend_programs(node: &Node) -> Result<()> {
    let busybox = node.path("/usr/bin/busybox");
    if busybox.exists() {
        return Ok(());
    }
    fs::copy("/usr/bin/busybox", &busybox).context("copy busybox to the node")?;
    for name in ["mount", "umount", "nice", "du"] {
        let link = node.path("/usr/bin").join(name);
        if !link.exists() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

/// Who the kubelet is: here, the administrator.
fn kubeconfig(url: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "node",
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
        "clusters": [{"name": "node", "cluster": {"server": url, "certificate-authority": "/etc/kubernetes/ca.crt"}}],
        "users": [{"name": "node", "user": {"token": ADMIN_TOKEN}}],
    })
    .to_string()
}

/// As most nodes have it, but for what a guest lacks (systemd, iptables, room on its disk) and the time that tests
/// have: volumes are looked at every few seconds, not every minute.
fn configuration() -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": [], "failSwapOn": false,
        "makeIPTablesUtilChains": false, "resolvConf": "/etc/resolv.conf",
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "syncFrequency": "5s",
    })
    .to_string()
}

/// Gives the node an address of its own, on loopback: what is sent there stays on the node.
pub fn give_address(address: &str) -> Result<()> {
    let arguments = [
        "ip",
        "address",
        "add",
        &format!("{address}/32"),
        "dev",
        "lo",
    ];
    kernelseal_integration::process::run(Command::new("/usr/bin/busybox").args(arguments))?;
    Ok(())
}
