//! What is watched changes, and calls go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::idle::{Hook, Idle};
use kernelseal_integration::pod::Place;
use kernelseal_integration::process::{spawn, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{SETTLE, SOON, config, dropped, shell, told, watching_a_pod};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("syscalls::on_and_off", on_and_off)
        .test("syscalls::once_while_ways_change", once_while_ways_change)
        .test("syscalls::returns_that_are_missed", returns_that_are_missed)
}

fn on_and_off() -> Result<()> {
    let folder = Scratch::new()?;
    let off = Config::token_for("probe-static").to_string();
    let path = folder.file("config.yaml", &off)?;
    let mut agent = Agent::start_with(Agent::command(&[]), &path)?.readied()?;
    let mut ask = |keys: Option<Value>| -> Result<Vec<String>> {
        let text = keys.map_or_else(|| off.clone(), |keys| config(&keys).to_string());
        let before = agent.log().len();
        folder.file("config.yaml", text)?;
        agent.signal(Signal::SIGHUP)?;
        until("taken up", SOON, || {
            let log = agent.log();
            log[before..].iter().any(|line| {
                line.contains("configuration reloaded")
                    || line.contains("the configuration has not changed")
            })
        })?;
        let pid = shell("true </dev/null; kill -0 $$")?;
        let told = told(&mut agent, pid)?;
        let names = told.iter().filter_map(|event| event["syscall"].as_str());
        let names: BTreeSet<&str> = names.collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    };
    ensure!(ask(None)?.is_empty());
    ensure!(ask(Some(json!({"names": ["openat", "kill"]})))? == ["kill", "openat"]);
    ensure!(ask(Some(json!({"names": ["kill"]})))? == ["kill"]);
    ensure!(ask(Some(json!({"names": ["openat"]})))? == ["openat"]);
    ensure!(ask(None)?.is_empty());
    ensure!(ask(Some(json!({"categories": ["signals"]})))?.contains(&"kill".into()));
    Ok(())
}

/// Where another way to watch takes over, both are attached for a while: nothing is told twice, or taken for lost.
fn once_while_ways_change() -> Result<()> {
    let folder = Scratch::new()?;
    let text = |names: Value| config(&json!({"names": names})).to_string();
    let path = folder.file("config.yaml", text(json!(["exit_group", "wait4"])))?;
    let mut agent = Agent::start_with(Agent::command(&[]), &path)?.readied()?;
    agent.wait_for_log("by_tracepoints=0", SOON)?;
    let script = "while :; do sh -c 'exit 7'; done";
    let exits = spawn(Command::new("sh").args(["-c", script]))?;
    // from here on nothing more can be probed
    let module = Idle::refusing(&[Hook::Lsm("perf_event_open")])?;
    folder.file(
        "config.yaml",
        text(json!(["exit_group", "wait4", "getppid"])),
    )?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log("slows every system call down", SOON)?;
    agent.wait_for_log("configuration reloaded", SOON)?;
    std::thread::sleep(SETTLE);
    drop((module, exits));
    let mut told = BTreeMap::new();
    for event in agent.events(SETTLE)? {
        if event["syscall"] == "exit_group" && event["args"]["error_code"] == 7 {
            *told.entry(event["pid"].as_u64()).or_insert(0) += 1;
        }
    }
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    ensure!(told.len() > 10, "so few exits were told: {told:?}");
    ensure!(
        twice.is_empty(),
        "of {} exits these were told twice: {twice:?}",
        told.len()
    );
    let lost = dropped(agent.events(SETTLE)?, "syscalls");
    ensure!(lost == 0, "{lost} calls were taken for lost");
    Ok(())
}

/// A return probe has few places, and a call that waits keeps one: what went by is counted.
fn returns_that_are_missed() -> Result<()> {
    const THREADS: usize = 200;
    let pod = Place::pod()?;
    let keys = json!({"names": ["read", "getppid"]});
    let mut agent = watching_a_pod(pod.command("env")?, &keys)?;
    let script = format!(
        "import os, threading\n\
         pipe = os.pipe()\n\
         def wait():\n  os.read(pipe[0], 1); os.getppid()\n\
         all = [threading.Thread(target=wait) for _ in range({THREADS})]\n\
         [one.start() for one in all]\n\
         os.write(pipe[1], b'x' * {THREADS})\n\
         [one.join() for one in all]"
    );
    let mut python = spawn(pod.command("python3")?.args(["-c", &script]))?;
    ensure!(python.wait(SOON)?.success());
    let told = agent.events(SETTLE)?;
    let read = |event: &&Value| {
        event["process"] == "python3" && event["syscall"] == "read" && event["args"]["count"] == 1
    };
    let told = told.iter().filter(read).count();
    let dropped = dropped(agent.events(SETTLE)?, "syscalls");
    ensure!(
        told + usize::try_from(dropped)? >= THREADS,
        "{told} told, {dropped} counted as lost"
    );
    Ok(())
}
