//! Sidecars that end and start again, secrets that change, and many starts.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attack::{besieged, ensure_refused, sealed};
use crate::delivery::{LIMIT, SIDECAR, shop};
use crate::manifest::{Files, Manifest};
use crate::node::Lent;
use crate::pod::Pod;

const ROTATION: &str = include_str!("../manifests/rotation.yaml");
/// For all starts together.
const STARTS_LIMIT: Duration = Duration::from_mins(40);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "cri::a_killed_sidecar_starts_again",
            LIMIT,
            a_killed_sidecar,
        )
        .slow_test(
            "cri::a_changed_secret_reaches_the_application",
            LIMIT,
            a_changed_secret,
        )
        .slow_test(
            "cri::every_start_has_its_secrets",
            STARTS_LIMIT,
            every_start,
        )
}

/// What was sealed stays guarded without it; with it again, what starts in the application's container is sealed.
fn a_killed_sidecar() -> Result<()> {
    let node = Lent::new()?;
    let mut pod = besieged(&node)?;
    let target = sealed(&pod)?;
    let environ = format!("/proc/{target}/environ");
    // As the kernel does when memory is short.
    kill(
        Pid::from_raw(i32::try_from(pod.process(SIDECAR)?)?),
        Signal::SIGKILL,
    )?;
    pod.wait_ended(SIDECAR)?;
    ensure_refused(&pod, &environ)?;
    // Nothing of that name starts without its secrets meanwhile.
    let ask = ["checkout", "--env", "TOKEN", "--file", "TOKEN"];
    let told = pod
        .exec("checkout", &ask)
        .unwrap_or_else(|error| format!("{error:#}"));
    ensure!(!told.contains("\"TOKEN\":"), "it ran: {told}");
    pod.start(SIDECAR)?;
    pod.wait_started(SIDECAR)?;
    ensure_refused(&pod, &environ)?;
    ensure!(
        pod.is_running("checkout")?,
        "the application ended with its sidecar"
    );
    let told = pod.exec("checkout", &ask)?;
    ensure_both(&serde_json::from_str(&told).context(told)?, "hunter2")?;
    let told = pod.exec("other", &ask)?;
    ensure!(
        told.contains(r#""TOKEN":null"#) && !told.contains("hunter2"),
        "{told}"
    );
    Ok(())
}

fn a_changed_secret() -> Result<()> {
    let node = Lent::new()?;
    let manifest = Manifest::injected(ROTATION, &["--mount-secret", "db-credentials"])?;
    let pod = Pod::run(&node, manifest)?;
    pod.wait_for("teller", |line| line["file"] == "hunter2")?;
    let files = Files::from([("password".to_owned(), "correct-horse".to_owned())]);
    pod.update("kernelseal-0", &files)?;
    pod.wait_for("teller", |line| line["file"] == "correct-horse")?;
    pod.wait_for(SIDECAR, |event| event["type"] == "ROTATED")?;
    Ok(())
}

/// Sidecar and application are started anew each time, the application as soon as the probe lets it.
fn every_start() -> Result<()> {
    let count: u32 = env::var("KERNELSEAL_POD_STARTS").map_or(Ok(25), |text| text.parse())?;
    let node = Lent::new()?;
    let mut pod = Pod::empty(&node, shop()?)?;
    let begin = Instant::now();
    for number in 1..=count {
        if number > 1 {
            pod.stop(SIDECAR, 10)?;
            pod.stop("checkout", 0)?;
        }
        pod.start(SIDECAR)?;
        pod.wait_started(SIDECAR)?;
        pod.start("checkout")?;
        let found = pod.wait_for("checkout", |_| true)?;
        ensure_both(&found, "hunter2").with_context(|| format!("start {number} of {count}"))?;
    }
    println!("{count} starts in {:?}", begin.elapsed());
    Ok(())
}
