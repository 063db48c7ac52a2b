//! Root in another container of the pod, with more capabilities than containers have, finds no secret.

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::registry::Registry;
use serde_json::{Value, json};

use crate::delivery::{LIMIT, SIDECAR, shop};
use crate::node::Lent;
use crate::pod::Pod;

/// `hunter2` backwards: the attacker's own arguments must not hold what it looks for.
pub const BACKWARDS: &str = "2retnuh";
/// Prints the processes of the agent in the pod, a line each. One may end while it is looked at: that is no answer, and no complaint.
pub const FIND_AGENTS: [&str; 3] = [
    "sh",
    "-c",
    "for p in /proc/[0-9]*; do c=; read -r c <$p/comm; [ \"$c\" = kernelseal ] && echo ${p#/proc/}; done 2>/dev/null; true",
];
/// What a container has by the runtime's default is enough to read a neighbour of the same user; these do for the rest.
const CAPABILITIES: [&str; 4] = ["SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH", "PERFMON"];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "cri::root_in_another_container_gets_nothing",
            LIMIT,
            nothing,
        )
        .slow_test(
            "cri::root_in_another_container_leaves_the_sidecar_alone",
            LIMIT,
            the_sidecar,
        )
}

/// The shop, with those capabilities for its shell.
pub fn besieged(node: &Lent) -> Result<Pod<'_>> {
    let mut manifest = shop()?;
    let containers = manifest.pod["spec"]["containers"]
        .as_array_mut()
        .context("no containers")?;
    let shell = containers
        .iter_mut()
        .find(|container| container["name"] == "shell");
    shell.context("no shell")?["securityContext"] = json!({"capabilities": {"add": CAPABILITIES}});
    Pod::run(node, manifest)
}

/// The number of the sealed application in the pod.
pub fn sealed(pod: &Pod<'_>) -> Result<String> {
    let found = pod.wait_for("checkout", |_| true)?;
    ensure_both(&found, "hunter2")?;
    Ok(found["pid"].as_u64().context("no pid")?.to_string())
}

/// Fails unless the shell is refused this file of procfs. (Links to what is another's are refused with EACCES.)
pub fn ensure_refused(pod: &Pod<'_>, file: &str) -> Result<()> {
    let told = pod.exec("shell", &["cat", file])?;
    ensure!(
        told.contains("Operation not permitted") || told.contains("Permission denied"),
        "{file}: {told}"
    );
    Ok(())
}

/// Fails unless the attack tried every way, and none led to the secret.
pub fn ensure_nothing_leaked(told: &str) -> Result<()> {
    let outcomes: Vec<Value> = told
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    ensure!(outcomes.len() > 30, "the attack tried little: {told}");
    for outcome in &outcomes {
        ensure!(outcome["leaked"] == false, "{outcome}");
    }
    for vector in [
        "attach",
        "seize",
        "process_vm_readv",
        "plain:environ",
        "plain:mem",
        "file-root",
    ] {
        let outcome = outcomes.iter().find(|outcome| outcome["vector"] == vector);
        ensure!(
            outcome.is_some_and(|outcome| outcome["errno"] == 1),
            "{vector}: {outcome:?}"
        );
    }
    Ok(())
}

fn nothing() -> Result<()> {
    let node = Lent::new()?;
    let pod = besieged(&node)?;
    let target = sealed(&pod)?;
    // The shell can do it: the same program in the other container is not sealed.
    let other = pod.wait_for("other", |_| true)?["pid"].to_string();
    let told = pod.exec("shell", &["cat", &format!("/proc/{other}/environ")])?;
    ensure!(
        told.contains("PATH=/bin"),
        "the attacker cannot read anybody: {told}"
    );
    let told = pod.exec(
        "shell",
        &["ls", &format!("/proc/{other}/root/bin/checkout")],
    )?;
    ensure!(
        told.starts_with("/proc/"),
        "the attacker sees no other container's files: {told}"
    );

    ensure_refused(&pod, &format!("/proc/{target}/environ"))?;
    ensure_refused(&pod, &format!("/proc/{target}/mem"))?;
    let file = format!("/proc/{target}/root/run/kernelseal/secrets/{target}/TOKEN");
    ensure_refused(&pod, &file)?;
    let command = ["attack", "all", &target, BACKWARDS, &file];
    let told = pod.exec("shell", &command)?;
    ensure_nothing_leaked(&told)?;
    // Who it was, the sidecar tells, with the pod's own numbers.
    pod.wait_for(SIDECAR, |event| {
        let of_target = event["target_pid"].as_u64() == target.parse().ok();
        event["type"] == "BLOCKED" && event["process"] == "cat" && of_target
    })?;
    ensure!(
        pod.is_running("checkout")?,
        "the application did not live through it"
    );
    Ok(())
}

fn the_sidecar() -> Result<()> {
    let node = Lent::new()?;
    let pod = besieged(&node)?;
    sealed(&pod)?;
    let agents = pod.exec("shell", &FIND_AGENTS)?;
    ensure!(!agents.trim().is_empty(), "the shell sees no agent");
    for agent in agents.lines() {
        ensure_refused(&pod, &format!("/proc/{agent}/environ"))?;
        ensure_refused(
            &pod,
            &format!("/proc/{agent}/root/etc/kernelseal/secrets/db-credentials/password"),
        )?;
        let told = pod.exec("shell", &["kill", "-9", agent])?;
        ensure!(told.contains("not permitted"), "kill: {told}");
    }
    ensure!(pod.is_running(SIDECAR)?, "the sidecar was ended");
    Ok(())
}
