//! The application's container gets its secrets, and no other does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::probe::{ensure_both, ensure_none};
use kernelseal_integration::registry::Registry;

use crate::manifest::Manifest;
use crate::node::Lent;
use crate::pod::Pod;

/// The pod of most tests, before it has its sidecar.
pub const SHOP: &str = include_str!("../manifests/shop.yaml");
/// The first test starts the node, too.
pub const LIMIT: Duration = Duration::from_mins(5);
pub const SIDECAR: &str = "kernelseal";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry.slow_test("cri::a_pod_is_as_kubernetes_makes_them", LIMIT, a_pod);
    let registry = registry.slow_test("cri::a_copy_is_not_the_application", LIMIT, a_copy);
    registry.slow_test(
        "cri::the_application_gets_its_secrets",
        LIMIT,
        the_application,
    )
}

/// What the other tests rely on: a pod as Kubernetes makes them.
fn a_pod() -> Result<()> {
    let node = Lent::new()?;
    let pod = Pod::run(&node, shop()?)?;
    let mut places: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for name in [SIDECAR, "checkout", "other", "shell"] {
        let process = format!("/proc/{}", pod.process(name)?);
        for kind in ["pid", "net", "ipc", "mnt", "cgroup"] {
            let namespace = fs::read_link(format!("{process}/ns/{kind}"))?;
            let own = fs::read_link(format!("/proc/self/ns/{kind}"))?;
            ensure!(namespace != own, "{name} is in the node's {kind} namespace");
            places
                .entry(kind)
                .or_default()
                .insert(namespace.to_string_lossy().into_owned());
        }
        let cgroup = fs::read_to_string(format!("{process}/cgroup"))?;
        let wanted = format!("0::/kubepods/burstable/pod{}/{}", pod.uid(), pod.id(name)?);
        ensure!(cgroup.trim() == wanted, "{name}: {cgroup}");
    }
    for (kind, namespaces) in places {
        let is_shared = ["pid", "net", "ipc"].contains(&kind);
        let count = if is_shared { 1 } else { 4 };
        ensure!(namespaces.len() == count, "{kind}: {namespaces:?}");
    }
    Ok(())
}

/// That pod with its sidecar.
pub fn shop() -> Result<Manifest> {
    Manifest::injected(SHOP, &["--mount-secret", "db-credentials"])
}

fn the_application() -> Result<()> {
    let node = Lent::new()?;
    let pod = Pod::run(&node, shop()?)?;
    let found = pod.wait_for("checkout", |_| true)?;
    ensure_both(&found, "hunter2")?;
    let sealed = pod.wait_for(SIDECAR, |event| event["type"] == "SEALED")?;
    ensure!(
        sealed["container"]["container_name"] == "checkout",
        "{sealed}"
    );
    ensure!(
        sealed["container"]["container_id"] == pod.id("checkout")?,
        "{sealed}"
    );
    ensure_none(&pod.wait_for("other", |_| true)?)
}

/// Somebody in its container makes a program of the application's name, and one out of the image, by a link.
fn a_copy() -> Result<()> {
    const COPY: &str =
        "cp /usr/local/bin/checkout /tmp/checkout; /tmp/checkout --env TOKEN; echo ended $?";
    const LINK: &str =
        "mkdir /tmp/l; ln -s /bin/busybox /tmp/l/checkout; /tmp/l/checkout env; echo ended $?";
    let node = Lent::new()?;
    let pod = Pod::run(&node, shop()?)?;
    ensure_both(&pod.wait_for("checkout", |_| true)?, "hunter2")?;
    for (deed, why) in [
        (
            COPY,
            "/tmp/checkout: it was made or changed after its container was",
        ),
        (
            LINK,
            "the symbolic link /tmp/l/checkout: it was made or changed",
        ),
    ] {
        let told = pod.exec("checkout", &["/bin/ash", "-c", deed])?;
        ensure!(
            told.contains("ended 137") && !told.contains("hunter2"),
            "{told}"
        );
        pod.wait_for(SIDECAR, |event| {
            let reason = event["reason"].as_str().unwrap_or_default();
            event["type"] == "REFUSED" && reason.contains(why)
        })?;
    }
    Ok(())
}
