//! Every call there is, by each way to watch, with what is told of it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

use super::{SETTLE, SOON, config, dropped, watching_a_pod};

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

pub(super) fn register(registry: Registry) -> Registry {
    let registry = registry.test("syscalls::every_call", every_call).test(
        "syscalls::every_call_by_tracepoints",
        every_call_by_tracepoints,
    );
    // (on arm64 those of 32 bits are not told of, and there is no such program here)
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
    let lost = dropped(events, "syscalls");
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
    ensure!(agent.log_contains("slows every system call down"));
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
