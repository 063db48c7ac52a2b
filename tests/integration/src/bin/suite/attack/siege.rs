//! All attacks while the guard itself is under attack, and while the pod ends; beside them, descriptors from before the exec are used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::process::Running;
use kernelseal_integration::registry::Registry;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::scene::{Ground, Scene};
use super::{AUDIT, DEFAULT, GROUNDS, LIMIT};

/// How often all ways are tried while the guard is under attack.
const TIMES: usize = 2;
/// Of the ways, so many at least are tried while the pod ends.
const WHILE_IT_ENDS: usize = 5;
/// Of descriptors from before the exec, this is refused whatever is under attack.
const REFUSED: [&str; 14] = [
    "kept-reopen:environ",
    "kept-reopen:mem",
    "kept-dirfd:environ",
    "kept-dirfd:mem",
    "kept-dirfd:syscall",
    "kept-dirfd:stack",
    "kept-write:coredump_filter",
    "kept-write:clear_refs",
    "kept-list:fd",
    "kept-list:fdinfo",
    "kept-link:root",
    "kept-link:cwd",
    "kept-link:secrets",
    "kept-pidfd:getfd",
];
/// Of these, those that find the secret where nothing is refused.
const LEADING: [&str; 5] = [
    "kept-reopen:mem",
    "kept-dirfd:mem",
    "kept-link:root",
    "kept-link:cwd",
    "kept-link:secrets",
];
/// So many ways lead from them.
const KEPT: usize = 48;
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
    registry.slow_test("attack::kept_from_before_the_exec", LIMIT, || {
        kept_from_before_the_exec(Ground::InsidePod)
    })
}

/// What is tried there are ways: in audit mode they lead to the secret.
fn kept_from_before_the_exec(ground: Ground) -> Result<()> {
    let scene = Scene::set(ground, AUDIT)?;
    let mut kept = scene.use_what_is_kept()?;
    let mut found = BTreeSet::new();
    for _ in 0..KEPT {
        let line = kept.json(LIMIT)?;
        if line["leaked"] == true {
            found.insert(line["vector"].as_str().context("no way")?.to_owned());
        }
    }
    ensure!(LEADING.iter().all(|way| found.contains(*way)), "{found:?}");
    Ok(())
}

fn besieged(ground: Ground) -> Result<()> {
    let mut scene = Scene::set_in_a_slow_pod(ground, DEFAULT)?;
    let mut kept = scene.use_what_is_kept()?;
    let mut besieging = scene.run_beside(AGAINST_THE_GUARD)?;
    ensure!(besieging.line(LIMIT)? == "ready");
    let begin_ms = now_ms()?;
    for _ in 0..TIMES {
        let found = scene.attack("all")?;
        ensure!(!found.is_empty());
        ensure_none_leaked(&found)?;
        ensure_guard_stands()?;
    }
    let end_ms = now_ms()?;
    // Everything in it lives until its process 1 has closed its files.
    let mut attacking = scene.keep_attacking()?;
    ensure_none_leaked(&[attacking.json(LIMIT)?])?;
    scene.end_pod()?;
    let found = lines_to_the_end(&mut attacking);
    ensure_kept_is_of_no_use(&lines_to_the_end(&mut kept), begin_ms..end_ms)?;
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

fn lines_to_the_end(running: &mut Running) -> Vec<Value> {
    std::iter::from_fn(|| running.json(LIMIT).ok()).collect()
}

/// The monotonic clock, in milliseconds.
fn now_ms() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.num_milliseconds())
}

/// Each way was tried before, amid and after those moments between which all of the attack went on, to no avail.
fn ensure_kept_is_of_no_use(lines: &[Value], siege_ms: Range<i64>) -> Result<()> {
    ensure_none_leaked(lines)?;
    let mut amid: BTreeMap<&str, usize> = BTreeMap::new();
    let mut is_tried_at_the_end = false;
    for line in lines {
        let way = line["vector"].as_str().context("no way")?;
        let at_ms = line["at_ms"].as_i64().context("no time")?;
        if siege_ms.contains(&at_ms) {
            *amid.entry(way).or_default() += 1;
        }
        is_tried_at_the_end |= at_ms >= siege_ms.end;
        ensure!(
            !REFUSED.contains(&way) || line["errno"] == libc::EPERM,
            "{line}"
        );
    }
    ensure!(amid.len() == KEPT, "{} ways: {amid:?}", amid.len());
    ensure!(amid.values().all(|times| *times >= TIMES), "{amid:?}");
    ensure!(REFUSED.iter().all(|way| amid.contains_key(way)), "{amid:?}");
    ensure!(is_tried_at_the_end, "nothing was tried while the pod ended");
    Ok(())
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
