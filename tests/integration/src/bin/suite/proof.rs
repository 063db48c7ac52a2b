//! The guard proves that it works: at start, for as long as an agent runs, and before each delivery.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned::PINS;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::until;
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";
const PORT: u16 = 9108;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("proof::a_guarded_start_says_so", a_guarded_start_says_so)
        .test("proof::ftrace_off_then_on", ftrace_off_then_on)
        .test(
            "proof::ftrace_off_before_the_start",
            ftrace_off_before_the_start,
        )
        .test("proof::a_link_is_lost", || a_pin_is_lost("link_file_open"))
        .test("proof::a_map_is_lost", || a_pin_is_lost("map_SEALED"))
        .test("proof::lifecycle_is_told", lifecycle_is_told)
}

fn config() -> String {
    Config::token_for("probe-static")
        .monitoring("enabled", true)
        .monitoring("metricsPort", PORT)
        .to_string()
}

fn agent() -> Result<Agent> {
    let mut agent = Agent::start(&config())?;
    agent.ready(SOON)?;
    Ok(agent)
}

/// What the agent answers over HTTP: everything, with the head.
fn ask(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_ready() -> Result<bool> {
    Ok(ask("/ready")?.starts_with("HTTP/1.1 200"))
}

fn is_up() -> Result<bool> {
    Ok(ask("/metrics")?.contains("\nkernelseal_guard_up 1\n"))
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// Hooks hang on ftrace, which 5.10 does not switch off while they do.
fn can_be_switched_off() -> Result<bool> {
    let is_off = fs::write(FTRACE, "0").is_ok();
    fs::write(FTRACE, "1")?;
    Ok(is_off)
}

fn lifecycle(action: &str) -> impl Fn(&Value) -> bool + '_ {
    move |event| event["type"] == "AGENT" && event["action"] == action
}

fn a_guarded_start_says_so() -> Result<()> {
    let mut agent = agent()?;
    let started = agent.wait_for(lifecycle("started"), SOON)?;
    ensure!(started["mode"] == "enforce", "{started}");
    until("/ready says so", SOON, || is_ready().unwrap_or(false))?;
    ensure!(is_up()?, "{}", ask("/metrics")?);
    let status = Agent::command(&["status"]).output()?;
    ensure!(status.status.code() == Some(0), "{status:?}");
    // (by the deeds that hooks are made to run by, nothing is changed)
    let name = fs::read_to_string(format!("/proc/{}/comm", agent.pid()))?;
    ensure!(name == "kernelseal\n", "{name:?}");
    Ok(())
}

/// Nothing starts and nothing is told to be well while hooks are off, and all of it is again when they are on.
fn ftrace_off_then_on() -> Result<()> {
    let mut agent = agent()?;
    if !can_be_switched_off()? {
        return Ok(());
    }
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    fs::write(FTRACE, "0")?;
    let result = while_off(&mut agent);
    fs::write(FTRACE, "1")?;
    result?;
    agent.wait_for(lifecycle("guard_restored"), SOON)?;
    until("/ready says so", SOON, || is_ready().unwrap_or(false))?;
    ensure!(is_up()?, "the metric");
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

fn while_off(agent: &mut Agent) -> Result<()> {
    // At once, whether the agent has noticed or not.
    ensure_not_started()?;
    let lost = agent.wait_for(lifecycle("guard_lost"), SOON)?;
    let reason = lost["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("ftrace_enabled=1"), "{reason}");
    until("/ready says no", SOON, || {
        is_ready().is_ok_and(|ready| !ready)
    })?;
    ensure!(!is_up()?, "the metric");
    let status = Agent::command(&["status"]).output()?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(said.contains("ftrace_enabled=1"), "{status:?}");
    ensure!(status.status.code() == Some(1), "{status:?}");
    ensure_not_started()?;
    agent
        .wait_for(
            |event| {
                event["type"] == "REFUSED"
                    && event["reason"]
                        .as_str()
                        .is_some_and(|why| why.contains("did not run"))
            },
            SOON,
        )
        .map(drop)
}

/// It is ended before its first instruction: it prints nothing.
fn ensure_not_started() -> Result<()> {
    let output = target()?.output()?;
    ensure!(
        !output.status.success() && output.stdout.is_empty(),
        "it was started: {output:?}"
    );
    Ok(())
}

fn ftrace_off_before_the_start() -> Result<()> {
    // (loaded)
    drop(agent()?);
    if !can_be_switched_off()? {
        return Ok(());
    }
    fs::write(FTRACE, "0")?;
    let failure = Agent::expect_failure(&config());
    fs::write(FTRACE, "1")?;
    let (_, said) = failure?;
    ensure!(said.contains("ftrace_enabled=1"), "{said}");
    ensure!(!said.contains("watching"), "{said}");
    Ok(())
}

/// The node's root takes one away while the agent runs.
fn a_pin_is_lost(name: &str) -> Result<()> {
    let mut agent = agent()?;
    let pin = fs::read_dir(PINS)?
        .filter_map(|entry| Some(entry.ok()?.path().join(name)))
        .find(|path| path.symlink_metadata().is_ok())
        .with_context(|| format!("there is no {name} in {PINS}"))?;
    fs::remove_file(&pin)?;
    let lost = agent.wait_for(lifecycle("guard_lost"), SOON)?;
    let reason = lost["reason"].as_str().context("no reason")?;
    ensure!(
        reason.contains(name) && reason.contains("cleanup --force"),
        "{reason}"
    );
    until("/ready says no", SOON, || {
        is_ready().is_ok_and(|ready| !ready)
    })?;
    drop(agent);
    let status = Agent::command(&["cleanup", "--force"]).output()?;
    ensure!(status.status.success(), "{status:?}");
    Ok(())
}

fn lifecycle_is_told() -> Result<()> {
    let mut agent = agent()?;
    agent.wait_for(lifecycle("started"), SOON)?;
    agent.signal(Signal::SIGTERM)?;
    agent.wait_for(lifecycle("stopping"), SOON).map(drop)
}
