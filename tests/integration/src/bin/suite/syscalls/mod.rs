//! The system call monitor: what programs ask of the kernel, record by record.

mod every;
mod live;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use serde_json::{Value, json};

use super::containers::Pod;
use super::observe::{get, serving};

const SOON: Duration = Duration::from_mins(1);
/// In which what must not come would have come.
const SETTLE: Duration = Duration::from_millis(1500);
const ON: &str = "the syscalls monitor is on";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry
        .test("syscalls::another_threads_call", another_threads_call)
        .test("syscalls::only_what_is_asked_for", only_what_is_asked_for)
        .test("syscalls::only_what_fails", only_what_fails)
        .test("syscalls::only_some_users", only_some_users)
        .test("syscalls::of_one_container", of_one_container)
        .test("syscalls::too_many_a_second", too_many_a_second);
    live::register(every::register(registry))
}

/// What turns the monitor on, by these keys.
fn on(keys: &Value) -> Value {
    let mut on = json!({"enabled": true});
    if let (Some(on), Some(keys)) = (on.as_object_mut(), keys.as_object()) {
        on.extend(keys.clone());
    }
    on
}

/// A configuration that watches by these keys.
fn config(keys: &Value) -> Config {
    Config::token_for("probe-static").monitoring("syscalls", on(keys))
}

/// An agent that watches by these keys.
fn watching(keys: &Value) -> Result<Agent> {
    let mut agent = Agent::run(&config(keys))?;
    agent.wait_for_log(ON, SOON)?;
    Ok(agent)
}

/// The monitor's events of some process.
fn told(agent: &mut Agent, pid: u32) -> Result<Vec<Value>> {
    let events = agent.events(SETTLE)?;
    let is_its = |event: &&Value| event["type"] == "SYSCALL" && event["pid"] == pid;
    Ok(events.iter().filter(is_its).cloned().collect())
}

/// How many events were lost there.
fn dropped(events: &[Value], lost_in: &str) -> u64 {
    let lost = |event: &&Value| event["type"] == "DROPPED" && event["lost_in"] == lost_in;
    let lost = events.iter().filter(lost);
    lost.filter_map(|event| event["count"].as_u64()).sum()
}

/// Runs a shell's script, and gives its number.
fn shell(script: &str) -> Result<u32> {
    let mut shell = spawn(Command::new("sh").args(["-c", script]))?;
    let pid = shell.pid();
    ensure!(shell.wait(SOON)?.success());
    Ok(pid)
}

/// An agent in a pod: who reads its events is outside of it, and not told of.
fn watching_a_pod(mut command: Command, keys: &Value) -> Result<Agent> {
    command.arg(Agent::command(&[]).get_program());
    let mut agent = Agent::start_as(command, &config(keys).to_string())?.readied()?;
    agent.wait_for_log(ON, SOON)?;
    Ok(agent)
}

/// It is its process's, by that one's number and name.
fn another_threads_call() -> Result<()> {
    let mut agent = watching(&json!({"names": ["getppid"]}))?;
    let script = "import os, threading\n\
         def call():\n  open('/proc/thread-self/comm', 'w').write('other'); os.getppid()\n\
         one = threading.Thread(target=call)\n\
         one.start(); one.join()";
    let mut python = spawn(Command::new("python3").args(["-c", script]))?;
    ensure!(python.wait(SOON)?.success());
    let told = told(&mut agent, python.pid())?;
    let [event] = told.as_slice() else {
        bail!("{told:?}");
    };
    ensure!(event["process"] == "python3", "{event}");
    Ok(())
}

fn only_what_is_asked_for() -> Result<()> {
    let mut agent = watching(&json!({"names": ["openat"]}))?;
    let pid = shell("true </dev/null; true </nowhere; true")?;
    let told = told(&mut agent, pid)?;
    ensure!(
        told.iter().all(|event| event["syscall"] == "openat"),
        "{told:?}"
    );
    let opened = |name: &str| {
        let mut all = told.iter();
        all.find(|event| event["args"]["filename"] == name).cloned()
    };
    let event = opened("/nowhere").context("not told")?;
    ensure!(event["ret"] == -2 && event["error"] == "ENOENT", "{event}");
    ensure!(
        event["category"] == "file" && event["process"] == "sh",
        "{event}"
    );
    let event = opened("/dev/null").context("not told")?;
    ensure!(event["ret"].as_i64().is_some_and(|ret| ret >= 0), "{event}");
    ensure!(event["args"]["mode"].is_null(), "{event}");
    Ok(())
}

fn only_what_fails() -> Result<()> {
    let keys = json!({"names": ["openat", "exit_group"], "failed": true});
    let mut agent = watching(&keys)?;
    let pid = shell("true </dev/null; true </nowhere; true")?;
    let told = told(&mut agent, pid)?;
    let names: Vec<&Value> = told
        .iter()
        .map(|event| &event["args"]["filename"])
        .collect();
    ensure!(names.contains(&&json!("/nowhere")), "{told:?}");
    ensure!(
        told.iter().all(|event| event["error"].is_string()),
        "{told:?}"
    );
    Ok(())
}

fn only_some_users() -> Result<()> {
    let mut agent = watching(&json!({"names": ["getppid"], "uids": [1234]}))?;
    let script = "import os; os.getppid(); os.setuid(1234); os.getppid(); os.getppid()";
    let mut python = spawn(Command::new("python3").args(["-c", script]))?;
    ensure!(python.wait(SOON)?.success());
    let told = told(&mut agent, python.pid())?;
    ensure!(told.len() == 2, "{told:?}");
    ensure!(told.iter().all(|event| event["uid"] == 1234), "{told:?}");
    Ok(())
}

fn of_one_container() -> Result<()> {
    let pod = Pod::new()?;
    let keys = json!({"names": ["openat"], "containers": ["app"]});
    // what tells the containers' names is a container's first process
    let mut firsts = Vec::new();
    for container in [&pod.app, &pod.other] {
        firsts.push(spawn(container.command(&pod.place, "sleep")?.arg("600"))?);
    }
    let mut agent = pod.agent(&config(&keys))?;
    agent.wait_for_log(ON, SOON)?;
    for (container, file) in [(&pod.other, "/nowhere/other"), (&pod.app, "/nowhere/app")] {
        for _ in 0..3 {
            let mut command = container.command(&pod.place, "sh")?;
            let _failed = command.args(["-c", &format!("true <{file}")]).output()?;
        }
    }
    // of the machine's own, which this agent does not see
    shell("true </nowhere/outside; true")?;
    let events = agent.events(SETTLE)?;
    let of = |file: &str| {
        let is_it = |event: &&Value| event["args"]["filename"] == file;
        events.iter().filter(is_it).collect::<Vec<_>>()
    };
    ensure!(of("/nowhere/app").len() == 3, "{events:?}");
    ensure!(of("/nowhere/other").is_empty() && of("/nowhere/outside").is_empty());
    for event in of("/nowhere/app") {
        ensure!(event["container"]["container_name"] == "app", "{event}");
    }
    Ok(())
}

fn too_many_a_second() -> Result<()> {
    const RATE: usize = 20;
    let keys = json!({"names": ["getppid"], "ratePerSecond": RATE});
    let config = serving().monitoring("syscalls", on(&keys));
    let mut agent = Agent::run(&config)?;
    agent.wait_for_log(ON, SOON)?;
    let script = "import os\nfor _ in range(3000): os.getppid()";
    let mut python = spawn(Command::new("python3").args(["-c", script]))?;
    ensure!(python.wait(SOON)?.success());
    let pid = python.pid();
    let told = told(&mut agent, pid)?.len();
    let dropped = dropped(agent.events(SETTLE)?, "rate");
    ensure!(
        told >= RATE && u64::try_from(told)? + dropped == 3000,
        "{told} and {dropped}"
    );
    let (_, metrics) = get("/metrics")?;
    let metric = format!("kernelseal_events_dropped_total{{lost_in=\"rate\"}} {dropped}");
    ensure!(metrics.contains(&metric), "{metrics}");
    let metric = "kernelseal_syscalls_total{outcome=\"ok\",syscall=\"getppid\"}";
    ensure!(metrics.contains(metric), "{metrics}");
    Ok(())
}
