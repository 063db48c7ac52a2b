//! The application's container gets its secrets, and no other does.

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
    registry.slow_test(
        "cri::the_application_gets_its_secrets",
        LIMIT,
        the_application,
    )
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
