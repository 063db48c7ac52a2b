//! What a pod leaves behind when it is killed with its agent: nothing that the next pod could stumble over. The kernel
//! gives the number of a namespace to the next that asks.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::pod::Place;
use kernelseal_integration::process::run;
use kernelseal_integration::registry::Registry;

use crate::scopes::{Pod, start_target};

/// For the kernel to take down a pod that was killed.
const TAKEN_DOWN: Duration = Duration::from_secs(1);
/// How many new ones may get other numbers first.
const TRIES: usize = 60;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry.test(
        "leftovers::a_reused_namespace_number_is_nobodys",
        a_reused_namespace_number_is_nobodys,
    )
}

/// The number by which the kernel side would know the place.
fn namespace_number(place: &Place) -> Result<u64> {
    let text = run(place
        .command("stat")?
        .args(["-L", "-c", "%i", "/proc/self/ns/pid"]))?;
    Ok(text.trim().parse()?)
}

fn a_reused_namespace_number_is_nobodys() -> Result<()> {
    start_clean()?;
    let place = Place::pod()?;
    let number = namespace_number(&place)?;
    let mut pod = Pod::start(place, "killed")?;
    let target = pod.seals()?;
    pod.kill()?;
    drop(target);
    thread::sleep(TAKEN_DOWN);

    let mut others = Vec::new();
    let again = loop {
        let place = Place::pod()?;
        if namespace_number(&place)? == number {
            break place;
        }
        others.push(place);
        ensure!(others.len() < TRIES, "the kernel does not reuse {number}");
    };
    let (_first, report) =
        start_target(&again).context("a program in a pod without an agent does not start")?;
    ensure!(
        report["env"]["TOKEN"].is_null(),
        "a dead agent's secret: {report}"
    );
    let mut node = Pod::start(Place::Machine, "node")?;
    let (_second, report) = start_target(&again)?;
    ensure!(
        report["env"]["TOKEN"] == "value-of-node",
        "the node's agent did not seal: {report}"
    );
    node.seals()?;
    Ok(())
}

/// Other tests kill agents too, and what those leave is not what is looked at here.
fn start_clean() -> Result<()> {
    run(&mut Agent::command(&["cleanup", "--force"])).map(drop)
}
