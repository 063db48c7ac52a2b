//! Pods that are narrow, the manifest that is shipped, and what the sidecar itself has in them.

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::registry::Registry;
use serde_json::json;

use crate::delivery::{LIMIT, SIDECAR, shop};
use crate::manifest::{Files, Manifest, shipped};
use crate::node::{CHECKOUT, KERNELSEAL, Lent};
use crate::pod::Pod;

const STRICT: &str = include_str!("../manifests/strict.yaml");
/// As linux/capability.h numbers those of the manifests: CHOWN, `DAC_OVERRIDE`, KILL, `IPC_LOCK`, `SYS_CHROOT`,
/// `SYS_PTRACE`, `SYS_ADMIN`, `SYS_RESOURCE`.
const CAPABILITIES: [u32; 8] = [0, 1, 5, 14, 18, 19, 21, 24];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("cri::narrow_applications_get_their_secrets", LIMIT, narrow)
        .slow_test(
            "cri::the_sidecar_has_what_the_manifest_names",
            LIMIT,
            the_sidecar,
        )
        .slow_test(
            "cri::a_sidecar_under_the_default_seccomp_profile",
            LIMIT,
            default_seccomp,
        )
        .slow_test("cri::the_shipped_manifest", LIMIT, the_shipped_manifest)
}

fn narrow() -> Result<()> {
    let node = Lent::new()?;
    let pod = Pod::run(
        &node,
        Manifest::injected(STRICT, &["--mount-secret", "db-credentials"])?,
    )?;
    for name in ["read-only", "non-root", "both"] {
        let found = pod.wait_for(name, |_| true)?;
        ensure_both(&found, "hunter2").with_context(|| name.to_owned())?;
        let told = pod.exec(name, &["touch", "/bin/file"])?;
        let refusal = if name == "non-root" {
            "Permission denied"
        } else {
            "Read-only file system"
        };
        ensure!(
            told.contains(refusal),
            "{name} is not what it should be: {told}"
        );
    }
    Ok(())
}

/// It is at work with the manifest's capabilities, and they are all it could ever have.
fn the_sidecar() -> Result<()> {
    let node = Lent::new()?;
    let pod = Pod::run(&node, shop()?)?;
    ensure_both(&pod.wait_for("checkout", |_| true)?, "hunter2")?;
    ensure_narrow(&pod)
}

/// Fails unless the sidecar has what the manifest gives it and no more: capabilities, and a root file system.
pub fn ensure_narrow(pod: &Pod<'_>) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.process(SIDECAR)?))?;
    let wanted: u64 = CAPABILITIES.iter().map(|bit| 1 << bit).sum();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{set}:\t")));
        let has = u64::from_str_radix(line.context("no such line")?, 16)?;
        ensure!(has == wanted, "{set} is {has:x}, not {wanted:x}");
    }
    ensure!(
        status.contains("\nUid:\t0\t0\t0\t0\n"),
        "not root:\n{status}"
    );
    // Its file system is read-only, and in it is the one program. No shell could be run there.
    let root = format!("/proc/{}/root", pod.process(SIDECAR)?);
    ensure!(
        std::fs::write(format!("{root}/file"), "").is_err(),
        "its root can be written to"
    );
    ensure!(
        pod.exec(SIDECAR, &["/bin/sh", "-c", "true"]).is_err(),
        "it has a shell"
    );
    Ok(())
}

/// What a kubelet with `seccompDefault` gives to all who say nothing.
fn default_seccomp() -> Result<()> {
    let node = Lent::new()?;
    let mut manifest = shop()?;
    manifest.pod["spec"]["initContainers"][0]["securityContext"]["seccompProfile"] =
        json!({"type": "RuntimeDefault"});
    let pod = Pod::run(&node, manifest)?;
    ensure_both(&pod.wait_for("checkout", |_| true)?, "hunter2")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.process(SIDECAR)?))?;
    ensure!(
        status.contains("Seccomp:\t2"),
        "no profile is in force:\n{status}"
    );
    Ok(())
}

/// `deploy/sidecar-pod.yaml` with other images and the Secret it asks for, and nothing else changed.
fn the_shipped_manifest() -> Result<()> {
    let node = Lent::new()?;
    let mut manifest = Manifest::read(&shipped("sidecar-pod.yaml")?)?
        .with_images(&[("kernelseal", KERNELSEAL), ("checkout", CHECKOUT)]);
    let files = Files::from([("password".to_owned(), "hunter2".to_owned())]);
    manifest.secrets.insert("db-credentials".to_owned(), files);
    let pod = Pod::run(&node, manifest)?;
    let found = pod.wait_for("checkout", |_| true)?;
    ensure!(found["env"]["DB_PASSWORD"] == "hunter2", "{found}");
    ensure!(
        found["files"]["DB_PASSWORD"]["content"] == "hunter2",
        "{found}"
    );
    Ok(())
}
