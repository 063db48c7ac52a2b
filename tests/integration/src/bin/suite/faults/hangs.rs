//! What one program's start waits for keeps no other waiting.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, ensure_both, report};
use kernelseal_integration::process::{is_traced, state, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SOON, lease, leases_last, nobody_is_stopped, target};

/// `holdTimeout` that no test comes to the end of.
const LONG: &str = "2m";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::an_exec_that_hangs", an_exec_that_hangs)
        .test("faults::a_handler_that_hangs", a_handler_that_hangs)
        .test("faults::what_hangs_is_given_up", what_hangs_is_given_up)
        .test(
            "faults::another_thread_executes_meanwhile",
            another_thread_executes_meanwhile,
        )
}

fn agent(hold_timeout: &str) -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static").policy("holdTimeout", hold_timeout))
}

/// Opens a terminal where a program waits for an agent that is away. The program before it has a handler for SIGUSR1 that
/// does not return, and maybe a thread that executes another at SIGUSR2.
fn waiting(program: &Path, other: Option<&Path>) -> Result<Terminal> {
    let mut turncoat = Command::new(probe::path("turncoat")?);
    turncoat.arg(program);
    match other {
        Some(other) => turncoat.arg("+").arg(other),
        None => turncoat.arg("-"),
    };
    let asks = ["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"];
    let terminal = Terminal::open(turncoat.env_clear().args(asks))?;
    thread::sleep(Duration::from_millis(500));
    ensure!(terminal.screen().is_empty(), "{}", terminal.screen());
    Ok(terminal)
}

fn signal(terminal: &Terminal, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(terminal.pid().cast_signed()), signal)?)
}

fn others_are_served() -> Result<()> {
    let mut elsewhere = Command::new("unshare");
    elsewhere.arg("-m").arg(probe::path("probe-static")?);
    elsewhere.args(["--env", "TOKEN", "--file", "TOKEN"]);
    for command in [&mut target()?, &mut elsewhere, &mut target()?] {
        let (_probe, found) = report(command)?;
        ensure_both(&found, "hunter2")
            .with_context(|| format!("{command:?}, beside one that hangs"))?;
    }
    Ok(())
}

/// Its own file is not opened for as long as who has a lease on it wishes, at a time when the agent comes for it.
fn an_exec_that_hangs() -> Result<()> {
    let folder = Scratch::new()?;
    let slow = folder.probe("probe-static", "slow/probe-static")?;
    let agent = agent(LONG)?;
    let _patience = leases_last()?;
    agent.signal(Signal::SIGSTOP)?;
    let hanging = waiting(&slow, None)?;
    let mut lease = lease(&slow)?;
    ensure!(lease.line(SOON)? == "asked");
    agent.signal(Signal::SIGCONT)?;
    others_are_served()?;
    ensure!(hanging.screen().is_empty(), "{}", hanging.screen());
    lease.signal(Signal::SIGKILL)?;
    hanging.shows(r#""env":{"TOKEN":"hunter2"}"#, 1)?;
    Ok(())
}

/// A program that waits for the agent in a handler that does not return, which runs before the exec begins anew.
fn in_a_handler(agent: &Agent, other: Option<&Path>) -> Result<Terminal> {
    agent.signal(Signal::SIGSTOP)?;
    let terminal = waiting(&probe::path("probe-static")?, other)?;
    signal(&terminal, Signal::SIGUSR1)?;
    thread::sleep(Duration::from_millis(500));
    agent.signal(Signal::SIGCONT)?;
    Ok(terminal)
}

fn a_handler_that_hangs() -> Result<()> {
    let mut agent = agent(LONG)?;
    let terminal = in_a_handler(&agent, None)?;
    let pid = terminal.pid();
    others_are_served()?;
    ensure!(terminal.screen().is_empty(), "{}", terminal.screen());
    drop(terminal);
    let event = agent.event("REFUSED", pid)?;
    ensure!(event["action"] == "gone", "{event}");
    nobody_is_stopped()
}

/// After `holdTimeout`; before that, the agent ends only with it.
fn what_hangs_is_given_up() -> Result<()> {
    let mut agent = agent("4s")?;
    let (first, second) = (in_a_handler(&agent, None)?, in_a_handler(&agent, None)?);
    for terminal in [&first, &second] {
        let event = agent.event("REFUSED", terminal.pid())?;
        ensure!(event["action"] == "killed", "{event}");
    }
    let last = in_a_handler(&agent, None)?;
    agent.stop()?;
    for terminal in [&first, &second, &last] {
        let pid = terminal.pid();
        until("it ends", SOON, || matches!(state(pid), None | Some('Z')))?;
        ensure!(terminal.screen().is_empty(), "{}", terminal.screen());
    }
    nobody_is_stopped()
}

/// It goes on as what it is by then, with nothing of the program that was coming.
fn another_thread_executes_meanwhile() -> Result<()> {
    /// Far longer than a busy machine takes for one of them.
    const HOLD: Duration = Duration::from_secs(15);
    /// The agent is at another step each time.
    const TIMES: usize = 6;
    let folder = Scratch::new()?;
    let unwatched = folder.probe("probe-static", "other")?;
    let agent = agent("15s")?;
    let mut going_on = Vec::new();
    for _ in 0..TIMES {
        let terminal = in_a_handler(&agent, Some(&unwatched))?;
        until("the agent is attached", SOON, || {
            is_traced(terminal.pid()) == Some(true)
        })?;
        signal(&terminal, Signal::SIGUSR2)?;
        terminal.shows(r#""env":{"TOKEN":null}"#, 1)?;
        going_on.push(terminal);
    }
    others_are_served()?;
    thread::sleep(HOLD + HOLD / 4);
    for terminal in &going_on {
        let pid = terminal.pid();
        ensure!(is_traced(pid) == Some(false), "{}", terminal.screen());
        // (of a program that is sealed nobody but its own opens it)
        fs::read(format!("/proc/{pid}/environ")).context("it is nobody's")?;
    }
    agent.stop()?;
    nobody_is_stopped()
}
