//! What one program's start waits for keeps no other waiting.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned;
use kernelseal_integration::probe::{self, ensure_both, report};
use kernelseal_integration::process::{is_traced, state, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidecar_common::policy::Held;

use super::{SOON, lease, leases_last, nobody_is_stopped, target};

/// `holdTimeout` that no test comes to the end of.
const LONG: &str = "2m";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::an_exec_that_hangs", an_exec_that_hangs)
        .test("faults::a_handler_that_hangs", a_handler_that_hangs)
        .test("faults::what_hangs_is_given_up", what_hangs_is_given_up)
        .test("faults::a_crowd_that_hangs", a_crowd_that_hangs)
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
    let held = pinned::hash::<u32, Held>("HELD")?;
    until("it waits for the agent", SOON, || {
        held.get(&terminal.pid(), 0).is_ok()
    })?;
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
    // (what waits for the agent has not asked for its file yet)
    agent.signal(Signal::SIGCONT)?;
    ensure!(lease.line(SOON)? == "asked");
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
    // (who waits for the agent is not asleep)
    until("it is in its handler", SOON, || {
        state(terminal.pid()) == Some('S')
    })?;
    agent.signal(Signal::SIGCONT)?;
    Ok(terminal)
}

/// It is what it was before, and nobody's until it executes again.
fn a_handler_that_hangs() -> Result<()> {
    let mut agent = agent(LONG)?;
    let terminal = in_a_handler(&agent, None)?;
    let pid = terminal.pid();
    others_are_served()?;
    ensure!(terminal.screen().is_empty(), "{}", terminal.screen());
    until("it is left alone", SOON, || is_traced(pid) == Some(false))?;
    let held = pinned::hash::<u32, Held>("HELD")?;
    until("it is not held", SOON, || held.get(&pid, 0).is_err())?;
    drop(terminal);
    let events = agent.events(Duration::from_millis(300))?;
    ensure!(
        !events.iter().any(|event| event["pid"] == pid),
        "{events:?}"
    );
    nobody_is_stopped()
}

/// A terminal where so many wait for an agent that is away, in such handlers; and who they are.
fn many_in_a_handler(count: usize) -> Result<(Terminal, Vec<u32>)> {
    let start = format!(
        "trap '' USR1; i=0; while [ $i -lt {count} ]; do \"$@\" & echo pid $!; i=$((i+1)); done; wait"
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &start, "sh"])
        .arg(probe::path("turncoat")?);
    shell.arg(probe::path("probe-static")?).arg("-");
    let terminal = Terminal::open(&mut shell)?;
    terminal.shows("pid ", count)?;
    let screen = terminal.screen();
    let pids = screen.split_whitespace().filter(|word| *word != "pid");
    let pids = pids.map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    // (one that comes before there is a handler is ignored; who waits for the agent is not asleep)
    until("all are in their handlers", SOON, || {
        for pid in &pids {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGUSR1);
        }
        thread::sleep(Duration::from_millis(100));
        pids.iter().all(|pid| state(*pid) == Some('S'))
    })?;
    Ok((terminal, pids))
}

/// Many of them are let go one after another.
fn a_crowd_that_hangs() -> Result<()> {
    /// They take all of the processor until they are in their handlers.
    const OF_A_TERMINAL: usize = 34;
    const TERMINALS: usize = 8;
    let agent = agent(LONG)?;
    agent.signal(Signal::SIGSTOP)?;
    let mut terminals = Vec::new();
    let mut crowd = Vec::new();
    for _ in 0..TERMINALS {
        let (terminal, pids) = many_in_a_handler(OF_A_TERMINAL)?;
        terminals.push(terminal);
        crowd.extend(pids);
    }
    agent.signal(Signal::SIGCONT)?;
    others_are_served()?;
    let held = pinned::hash::<u32, Held>("HELD")?;
    until("all are left alone", SOON, || {
        crowd
            .iter()
            .all(|pid| is_traced(*pid) == Some(false) && held.get(pid, 0).is_err())
    })?;
    others_are_served()?;
    nobody_is_stopped()
}

/// Nobody waits for a file that is not opened for longer than `holdTimeout`, and the agent ends meanwhile.
fn what_hangs_is_given_up() -> Result<()> {
    let folder = Scratch::new()?;
    let slow = folder.probe("probe-static", "slow/probe-static")?;
    // (what asks for the lease takes its time to begin on a busy machine)
    let hold = Duration::from_secs(20);
    let agent = agent("20s")?;
    let _patience = leases_last()?;
    agent.signal(Signal::SIGSTOP)?;
    let hanging = waiting(&slow, None)?;
    let mut lease = lease(&slow)?;
    // (what waits for the agent has not asked for its file yet)
    agent.signal(Signal::SIGCONT)?;
    ensure!(lease.line(SOON)? == "asked");
    others_are_served()?;
    agent.stop_within(hold + SOON)?;
    lease.signal(Signal::SIGKILL)?;
    let pid = hanging.pid();
    until("it has ended, or goes on", SOON, || {
        !hanging.screen().is_empty() || matches!(state(pid), None | Some('Z'))
    })?;
    ensure!(
        !hanging.screen().contains("hunter2"),
        "{}",
        hanging.screen()
    );
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
    for n in 0..TIMES {
        let terminal = in_a_handler(&agent, Some(&unwatched))?;
        thread::sleep(Duration::from_millis(8) * u32::try_from(n)?);
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
