//! Whoever has a program's memory merged with others' (KSM) before its exec guesses its pages no more once it has a secret.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, ensure_both};
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::machine::kernel_version;

const SOON: Duration = Duration::from_secs(20);
/// The first kernel whose `prctl` knows `PR_SET_MEMORY_MERGE`.
const KNOWN_SINCE: (u32, u32) = (6, 4);
/// The first one on which an exec does not end it.
const KEPT_SINCE: (u32, u32) = (6, 7);
/// How `merge` ends where the kernel does not know it.
const UNKNOWN: i32 = 3;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("merging::is_switched_off", is_switched_off)
        .test(
            "merging::programs_of_every_kind_start",
            programs_of_every_kind_start,
        )
        .test("merging::under_a_filter", under_a_filter)
        .test(
            "merging::under_a_filter_that_the_agent_cannot_suspend",
            under_a_filter_that_the_agent_cannot_suspend,
        )
        .test("merging::of_others_goes_on", of_others_goes_on)
}

/// Has `merge` execute a program in that way.
fn merged(way: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = probe::command("merge")?;
    command.arg(way).arg(program);
    Ok(command)
}

/// What a program tells that was executed so; nothing where the kernel does not know of merging, and it is right in that.
fn told(command: &mut Command) -> Result<Option<Value>> {
    let mut running = spawn(command)?;
    match running.json(SOON) {
        Ok(told) => Ok(Some(told)),
        Err(e) => {
            let status = running.wait(SOON)?;
            ensure!(
                status.code() == Some(UNKNOWN) && kernel_version()? < KNOWN_SINCE,
                "{e:#}; it ended with {status}"
            );
            Ok(None)
        }
    }
}

/// A copy of `merge` under the name that the agent watches, which tells of itself.
fn target(folder: &Scratch) -> Result<PathBuf> {
    folder.probe("merge", "merged")
}

fn ensure_off(told: &Value) -> Result<()> {
    ensure!(told["env"]["TOKEN"] == "hunter2", "no secret: {told}");
    ensure!(told["merges"] == 0, "its memory is merged: {told}");
    Ok(())
}

fn is_switched_off() -> Result<()> {
    let folder = Scratch::new()?;
    let target = target(&folder)?;
    let _agent = Agent::run(&Config::token_for("merged").delivery(&["env"]))?;
    let Some(told) = told(merged("exec", &target)?.arg("tell"))? else {
        return Ok(());
    };
    ensure_off(&told)
}

/// None of them sees that a system call was made before its first instruction.
fn programs_of_every_kind_start() -> Result<()> {
    let mut config = Config::token_for(probe::ALL[0]);
    for name in &probe::ALL[1..] {
        config = config.and_seal(name).value("TOKEN", "hunter2");
    }
    let _agent = Agent::run(&config)?;
    for name in probe::ALL {
        let mut command = merged("exec", probe::path(name)?)?;
        command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
        let mut running = spawn(&mut command)?;
        let Ok(found) = running.json(SOON) else {
            let status = running.wait(SOON)?;
            ensure!(status.code() == Some(UNKNOWN), "{name} ended with {status}");
            ensure!(kernel_version()? < KNOWN_SINCE);
            return Ok(());
        };
        ensure_both(&found, "hunter2").context(*name)?;
        // (6.15 and later tell it of others)
        let stat = fs::read_to_string(format!("/proc/{}/ksm_stat", running.pid()));
        let tells = stat.as_deref().unwrap_or_default();
        ensure!(!tells.contains("ksm_merge_any: yes"), "{name}: {tells}");
    }
    Ok(())
}

/// The system call that switches it off is ours, not the program's: its filter is not asked.
fn under_a_filter() -> Result<()> {
    let folder = Scratch::new()?;
    let target = target(&folder)?;
    let config = Config::token_for("merged").and_seal("probe-static");
    let _agent = Agent::run(&config.value("TOKEN", "hunter2"))?;
    let mut probe = merged("filtered", probe::path("probe-static")?)?;
    let Some(told) = told(probe.args(["--env", "TOKEN", "--file", "TOKEN"]))? else {
        return Ok(());
    };
    ensure_both(&told, "hunter2")?;
    // The filter is one, and is there again: who calls prctl(2) is killed.
    let mut running = spawn(merged("filtered", &target)?.arg("tell"))?;
    let status = running.wait(SOON)?;
    ensure!(
        status.signal() == Some(Signal::SIGSYS as i32),
        "it ended with {status}"
    );
    Ok(())
}

/// An agent under a filter suspends nobody's. It does not risk the program by a call that this one may not make.
fn under_a_filter_that_the_agent_cannot_suspend() -> Result<()> {
    let folder = Scratch::new()?;
    let target = target(&folder)?;
    let config = Config::token_for("merged").delivery(&["env"]);
    let mut command = Command::new(probe::path("deny")?);
    command.arg("perf_event_open").arg(Agent::binary());
    let mut agent = Agent::start_as(command, &config.to_string())?.readied()?;
    // Who has no filter is none of those.
    let Some(told) = told(merged("exec", &target)?.arg("tell"))? else {
        return Ok(());
    };
    ensure_off(&told)?;
    if kernel_version()? < KEPT_SINCE {
        return Ok(());
    }
    let mut running = spawn(merged("filtered", &target)?.arg("tell"))?;
    if let Ok(line) = running.line(SOON) {
        bail!("it started and said {line}");
    }
    let status = running.wait(SOON)?;
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "it ended with {status}"
    );
    let reason = agent.refusal(running.pid())?;
    ensure!(
        reason.contains("PR_SET_MEMORY_MERGE") && reason.contains("seccomp"),
        "{reason}"
    );
    Ok(())
}

/// Who gets no secrets keeps what it has.
fn of_others_goes_on() -> Result<()> {
    let folder = Scratch::new()?;
    let target = target(&folder)?;
    let config = Config::token_for("merged").selector("uid", 1000);
    let _agent = Agent::run(&config.delivery(&["env"]))?;
    let Some(told) = told(merged("exec", &target)?.arg("tell"))? else {
        return Ok(());
    };
    let is_kept = kernel_version()? >= KEPT_SINCE;
    ensure!(
        told == json!({"merges": i32::from(is_kept), "env": {"TOKEN": null}}),
        "{told}"
    );
    Ok(())
}
