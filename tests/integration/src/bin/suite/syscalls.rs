//! The system call monitor: what programs ask of the kernel, record by record.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::idle::{Hook, Idle};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::containers::Pod;
use super::observe::{get, serving};

const SOON: Duration = Duration::from_mins(1);
/// In which what must not come would have come.
const SETTLE: Duration = Duration::from_millis(1500);
const ON: &str = "the syscalls monitor is on";
/// What calls of 32 bits are told by.
const NARROW: &str = "i386";
/// The program that makes them.
const CALLS_32: &str = "calls-32";
const CATEGORIES: [&str; 9] = [
    "file",
    "network",
    "process",
    "descriptors",
    "memory",
    "signals",
    "timers",
    "users",
    "system",
];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry
        .test("syscalls::every_call", every_call)
        .test(
            "syscalls::every_call_by_tracepoints",
            every_call_by_tracepoints,
        )
        .test("syscalls::another_threads_call", another_threads_call)
        .test("syscalls::only_what_is_asked_for", only_what_is_asked_for)
        .test("syscalls::only_what_fails", only_what_fails)
        .test("syscalls::only_some_users", only_some_users)
        .test("syscalls::of_one_container", of_one_container)
        .test("syscalls::too_many_a_second", too_many_a_second)
        .test("syscalls::on_and_off", on_and_off)
        .test("syscalls::an_exit_once", an_exit_once)
        .test("syscalls::returns_that_are_missed", returns_that_are_missed);
    // (on arm64 they are not told of, and there is no such program here)
    if cfg!(not(target_arch = "x86_64")) {
        return registry;
    }
    registry
        .test("syscalls::every_call_of_32_bits", every_call_of_32_bits)
        .test(
            "syscalls::every_call_of_32_bits_by_tracepoints",
            every_call_of_32_bits_by_tracepoints,
        )
        .test("syscalls::a_program_of_32_bits", a_program_of_32_bits)
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

/// Runs a shell's script, and gives its number.
fn shell(script: &str) -> Result<u32> {
    let mut shell = spawn(Command::new("sh").args(["-c", script]))?;
    let pid = shell.pid();
    ensure!(shell.wait(SOON)?.success());
    Ok(pid)
}

/// Whether an event says what was expected, where something was.
fn is_said(event: &Value, expected: &Value) -> bool {
    let args = expected["args"].as_object();
    event["type"] == "SYSCALL"
        && event["syscall"] == expected["syscall"]
        && event["pid"] == expected["pid"]
        && event.get("abi") == expected.get("abi")
        && event.get("ret") == expected.get("ret")
        && args.is_some_and(|args| {
            args.iter()
                .all(|(name, value)| event["args"][name] == *value)
        })
}

/// An agent in a pod: who reads its events is outside of it, and not told of.
fn watching_a_pod(mut command: Command, keys: &Value) -> Result<Agent> {
    command.arg(Agent::command(&[]).get_program());
    let mut agent = Agent::start_as(command, &config(keys).to_string())?.readied()?;
    agent.wait_for_log(ON, SOON)?;
    Ok(agent)
}

/// A program makes every call; each is told as it says.
fn compare(agent: &mut Agent, pod: &Place, program: &str) -> Result<()> {
    let folder = Scratch::new()?;
    let mut command = pod.command(probe::path(program)?)?;
    let output = command.arg(folder.join(".")).output()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    let mut expected: Vec<Value> = String::from_utf8(output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let events = agent.events(SETTLE)?;
    // (5.10 has one place for a return on a machine of one processor; what somebody else then keeps waiting is lost,
    // and counted)
    let lost: u64 = events
        .iter()
        .filter(|event| event["type"] == "DROPPED" && event["lost_in"] == "syscalls")
        .filter_map(|event| event["count"].as_u64())
        .sum();
    let narrow: Vec<&Value> = events
        .iter()
        .filter(|event| event["abi"] == NARROW)
        .collect();
    if program == CALLS_32 {
        // Its libraries' are of 64 bits.
        let lost = usize::try_from(lost)?;
        ensure!(
            narrow.len() <= expected.len() && expected.len() <= narrow.len() + lost,
            "{} were told",
            narrow.len()
        );
        for call in &mut expected {
            call["abi"] = json!(NARROW);
        }
    } else {
        ensure!(narrow.is_empty(), "{narrow:?}");
    }
    let mut missing = Vec::new();
    for call in &expected {
        if !events.iter().any(|event| is_said(event, call)) {
            let same =
                |event: &&Value| event["syscall"] == call["syscall"] && event["pid"] == call["pid"];
            let near: Vec<&Value> = events.iter().filter(same).take(4).collect();
            missing.push(format!("{call}\n  was told as {near:?}"));
        }
    }
    ensure!(
        u64::try_from(missing.len())? <= lost,
        "{}\nlost: {lost}",
        missing.join("\n")
    );
    // nothing that can be watched was left out
    let made: BTreeSet<&str> = expected
        .iter()
        .filter_map(|call| call["syscall"].as_str())
        .collect();
    let known = names()?;
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    ensure!(made == known, "{:?}", made.symmetric_difference(&known));
    for event in events.iter().filter(|event| event["type"] == "SYSCALL") {
        let has_times = event["duration_ns"].is_u64() && event["timestamp"].is_string();
        ensure!(has_times && event["category"].is_string(), "{event}");
        let is_named = event["ret"]
            .as_i64()
            .is_none_or(|ret| (-4095..0).contains(&ret))
            == event["error"].is_string()
            || event.get("ret").is_none();
        ensure!(is_named, "{event}");
    }
    Ok(())
}

/// Every name, as the message for a wrong one lists them.
fn names() -> Result<Vec<String>> {
    let wrong = config(&json!({"names": ["none"]})).to_string();
    let (_, said) = Agent::expect_failure(&wrong)?;
    let (_, list) = said.split_once("write one of: ").context(said.clone())?;
    let list = list.lines().next().unwrap_or_default();
    Ok(list
        .split(", ")
        .map(|name| name.trim().to_owned())
        .collect())
}

fn by_probes(program: &str) -> Result<()> {
    let pod = Place::pod()?;
    let keys = json!({"categories": CATEGORIES});
    let mut agent = watching_a_pod(pod.command("env")?, &keys)?;
    ensure!(agent.log_contains("by_tracepoints=0"), "{:?}", agent.log());
    compare(&mut agent, &pod, program)?;
    // (hundreds of probes go one by one, in emulation longer than a test waits for the end)
    agent.kill()
}

/// Where functions cannot be probed, here because nobody may open performance events.
fn by_tracepoints(program: &str) -> Result<()> {
    let pod = Place::pod()?;
    let keys = json!({"categories": CATEGORIES});
    let mut deny = pod.command(probe::path("deny")?)?;
    deny.arg("perf_event_open");
    let mut agent = watching_a_pod(deny, &keys)?;
    ensure!(agent.log_contains("by_probes=0"), "{:?}", agent.log());
    ensure!(agent.log_contains("slows all of them down"));
    compare(&mut agent, &pod, program)
}

fn every_call() -> Result<()> {
    by_probes("calls")
}

fn every_call_by_tracepoints() -> Result<()> {
    by_tracepoints("calls")
}

/// By `int 0x80` of a program of 64 bits, in all the ways that there are for one of 32.
fn every_call_of_32_bits() -> Result<()> {
    by_probes(CALLS_32)
}

fn every_call_of_32_bits_by_tracepoints() -> Result<()> {
    by_tracepoints(CALLS_32)
}

/// One that has nothing of 64 bits: by their numbers there its calls are others (`write` is `stat`). Once it calls as a C library
/// does.
fn a_program_of_32_bits() -> Result<()> {
    let pod = Place::pod()?;
    let names = json!({"names": ["execve", "write", "stat", "getpid"]});
    let mut deny = pod.command(probe::path("deny")?)?;
    deny.arg("perf_event_open");
    for (command, how) in [
        (pod.command("env")?, "by_tracepoints=0"),
        (deny, "by_probes=0"),
    ] {
        let mut agent = watching_a_pod(command, &names)?;
        ensure!(agent.log_contains(how), "{:?}", agent.log());
        let mut probe = spawn(pod.command(probe::path("probe-32")?)?.env_clear())?;
        ensure!(probe.wait(SOON)?.success());
        let events = agent.events(SETTLE)?;
        let own = events.iter().filter(|event| event["process"] == "probe-32");
        let told: Vec<(&str, bool)> = own
            .filter_map(|event| Some((event["syscall"].as_str()?, event["abi"] == NARROW)))
            .collect();
        let own = [
            ("execve", false),
            ("getpid", true),
            ("getpid", true),
            ("write", true),
        ];
        ensure!(told == own, "{how}: {told:?}");
    }
    Ok(())
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
    let dropped: u64 = agent
        .events(SETTLE)?
        .iter()
        .filter(|event| event["type"] == "DROPPED" && event["lost_in"] == "rate")
        .filter_map(|event| event["count"].as_u64())
        .sum();
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
        kernelseal_integration::process::until("taken up", SOON, || {
            let log = agent.log();
            log[before..].iter().any(|line| {
                line.contains("another configuration is in force")
                    || line.contains("what it said before")
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

/// Also where another way to watch takes over meanwhile: for a while both are attached.
fn an_exit_once() -> Result<()> {
    let folder = Scratch::new()?;
    let text = |names: Value| config(&json!({"names": names})).to_string();
    let path = folder.file("config.yaml", text(json!(["exit_group"])))?;
    let mut agent = Agent::start_with(Agent::command(&[]), &path)?.readied()?;
    agent.wait_for_log("by_tracepoints=0", SOON)?;
    let script = "while :; do sh -c 'exit 7'; done";
    let exits = spawn(Command::new("sh").args(["-c", script]))?;
    // from here on nothing more can be probed
    let module = Idle::refusing(&[Hook::Lsm("perf_event_open")])?;
    folder.file("config.yaml", text(json!(["exit_group", "getppid"])))?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log("slows all of them down", SOON)?;
    agent.wait_for_log("is in force", SOON)?;
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
    let dropped: u64 = agent
        .events(SETTLE)?
        .iter()
        .filter(|event| event["type"] == "DROPPED" && event["lost_in"] == "syscalls")
        .filter_map(|event| event["count"].as_u64())
        .sum();
    ensure!(
        told + usize::try_from(dropped)? >= THREADS,
        "{told} told, {dropped} counted as lost"
    );
    Ok(())
}
