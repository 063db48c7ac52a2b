//! All attacks while the guard itself is under attack, and while the pod ends.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use kernelseal_integration::registry::Registry;
use serde_json::Value;

use super::scene::{Ground, Scene};
use super::{DEFAULT, GROUNDS, LIMIT};

/// How often all ways are tried while the guard is under attack.
const TIMES: usize = 2;
/// Of the ways, so many at least are tried while the pod ends.
const WHILE_IT_ENDS: usize = 5;
/// Root in the pod goes for what hooks hang on, by the procfs that is there and by another, and for the pins, by the paths that
/// lead to them and by a file system of its own.
const AGAINST_THE_GUARD: &str = r"
mkdir -p /tmp/siege/proc /tmp/siege/bpf
mount -t proc proc /tmp/siege/proc
mount -t bpf bpf /tmp/siege/bpf
echo ready
while :; do
    for proc in /proc /tmp/siege/proc; do
        for value in 0 1; do
            echo $value >$proc/sys/kernel/ftrace_enabled
        done
        rm -rf $proc/1/root/sys/fs/bpf/kernelseal $proc/[0-9]*/root/sys/fs/bpf/kernelseal
    done
    rm -rf /sys/fs/bpf/kernelseal /tmp/siege/bpf/kernelseal
    mv /sys/fs/bpf/kernelseal /sys/fs/bpf/another
    chmod 777 /sys/fs/bpf/kernelseal
done 2>/dev/null
";

/// Adds these tests.
pub fn register(mut registry: Registry) -> Registry {
    for (name, ground) in GROUNDS {
        if ground != Ground::Machine {
            let name = format!("attack::{name}_besieged");
            registry = registry.slow_test(name, LIMIT, move || besieged(ground));
        }
    }
    registry
}

fn besieged(ground: Ground) -> Result<()> {
    let mut scene = Scene::set_in_a_slow_pod(ground, DEFAULT)?;
    let mut besieging = scene.run_beside(AGAINST_THE_GUARD)?;
    ensure!(besieging.line(LIMIT)? == "ready");
    for _ in 0..TIMES {
        let found = scene.attack("all")?;
        ensure!(!found.is_empty());
        ensure_none_leaked(&found)?;
        ensure_guard_stands()?;
    }
    // Everything in it lives until its process 1 has closed its files.
    let mut attacking = scene.keep_attacking()?;
    ensure_none_leaked(&[attacking.json(LIMIT)?])?;
    scene.end_pod()?;
    let mut found = Vec::new();
    while let Ok(line) = attacking.json(LIMIT) {
        found.push(line);
    }
    if ground == Ground::InsidePod {
        scene.agent_ends_with_its_pod()?;
    }
    ensure_none_leaked(&found)?;
    ensure!(
        found.len() >= WHILE_IT_ENDS,
        "{} ways were tried while it ended",
        found.len()
    );
    ensure_guard_stands()
}

fn ensure_none_leaked(found: &[Value]) -> Result<()> {
    let mut leaked = found.iter().filter(|line| line["leaked"] != false);
    ensure!(leaked.next().is_none(), "{found:?}");
    Ok(())
}

fn ensure_guard_stands() -> Result<()> {
    let ftrace = fs::read_to_string("/proc/sys/kernel/ftrace_enabled")?;
    ensure!(ftrace.trim() == "1", "ftrace_enabled is {ftrace}");
    ensure!(
        Path::new("/sys/fs/bpf/kernelseal").exists(),
        "the pins are gone"
    );
    Ok(())
}
