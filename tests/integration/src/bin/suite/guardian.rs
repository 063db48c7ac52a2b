//! An agent is killed in the middle of its work: nobody stays stopped, and nobody starts without what it should have.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::namespace::process_one;
use kernelseal_integration::probe::{
    self, asked_for_token, ensure_both, ensure_none, report, staying,
};
use kernelseal_integration::process::{self, Running, state, stopped, until};
use kernelseal_integration::registry::Registry;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lifecycle::held;

const SOON: Duration = Duration::from_secs(20);
/// Programs started from each of two threads while the agent is killed.
const CROWD: usize = 60;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("guardian::ends_what_is_held", ends_what_is_held)
        .test("guardian::is_not_hung_up", is_not_hung_up)
        .test("guardian::lets_go_by_policy", lets_go_by_policy)
        .test("guardian::many_starts_and_a_kill", many_starts_and_a_kill)
        .test("guardian::is_replaced", is_replaced)
        .test("guardian::is_guarded", is_guarded)
        .test("guardian::goes_with_its_agent", goes_with_its_agent)
        .test("guardian::killed_too", killed_too)
        .test("guardian::nobody_holds_it_up", nobody_holds_it_up)
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static"))
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// An agent's guardian.
pub fn guardian_of(agent: &Agent) -> Result<Pid> {
    let number = process_one(agent.pid()).context("the agent has no guardian")?;
    Ok(Pid::from_raw(number.cast_signed()))
}

fn ensure_ended(mut agent: Agent, held: &mut [Running]) -> Result<()> {
    agent.signal(Signal::SIGKILL)?;
    for probe in held {
        ensure!(probe.wait(SOON)?.signal() == Some(9));
        let reason = agent.refusal(probe.pid())?;
        ensure!(reason.contains("its agent was killed"), "{reason}");
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    agent.stop().map(drop)
}

fn ends_what_is_held() -> Result<()> {
    let first = agent()?;
    let mut all = held(&first, 20)?;
    ensure_ended(first, &mut all)?;
    let _second = agent()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

/// The kernel sends SIGHUP to a process that is stopped when its parent ends, and what a service's processes are all sent
/// is not for the guardian either.
fn is_not_hung_up() -> Result<()> {
    let first = agent()?;
    let guardian = guardian_of(&first)?;
    kill(guardian, Signal::SIGTERM)?;
    kill(guardian, Signal::SIGINT)?;
    let mut all = held(&first, 3)?;
    kill(guardian, Signal::SIGSTOP)?;
    until("the guardian stops", SOON, || {
        state(guardian.as_raw().cast_unsigned()) == Some('T')
    })?;
    ensure_ended(first, &mut all)
}

fn lets_go_by_policy() -> Result<()> {
    let config = Config::token_for("probe-static").policy("onFailure", "allow");
    let first = Agent::run(&config)?;
    let mut all = held(&first, 5)?;
    first.kill()?;
    for probe in &mut all {
        ensure_none(&probe.json(SOON)?)?;
        // It is nobody's secret that it has: it is not guarded.
        File::open(format!("/proc/{}/environ", probe.pid()))?;
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    agent().map(drop)
}

/// Every one of them has its secrets, was killed before its first instruction, or did not start.
fn many_starts_and_a_kill() -> Result<()> {
    for round in 0..10 {
        let agent = agent()?;
        let begun = AtomicBool::new(false);
        let start = || -> Result<Vec<Running>> {
            let mut all = Vec::new();
            for _ in 0..CROWD {
                let started = process::spawn(target()?.args(["--sleep", "600"]));
                begun.store(true, Ordering::Relaxed);
                match started {
                    Ok(probe) => all.push(probe),
                    // Refused: there is no agent any more.
                    Err(error) => ensure!(
                        error
                            .downcast_ref::<std::io::Error>()
                            .and_then(std::io::Error::raw_os_error)
                            == Some(libc::EPERM),
                        "{error:#}"
                    ),
                }
            }
            Ok(all)
        };
        let all = thread::scope(|scope| -> Result<_> {
            let threads = [scope.spawn(start), scope.spawn(start)];
            until("they start", SOON, || begun.load(Ordering::Relaxed))?;
            thread::sleep(Duration::from_millis(3 * round));
            agent.kill()?;
            let mut all = Vec::new();
            for thread in threads {
                all.extend(thread.join().expect("starting does not panic")?);
            }
            Ok(all)
        })?;
        let mut served = 0;
        for mut probe in all {
            match probe.json(SOON) {
                Ok(found) => {
                    ensure_both(&found, "hunter2")?;
                    served += 1;
                }
                Err(error) => {
                    let status = probe.wait(SOON).with_context(|| format!("{error:#}"))?;
                    ensure!(status.signal() == Some(9), "{status}: {error:#}");
                }
            }
        }
        println!("round {round}: {served} were served");
        ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    }
    agent().map(drop)
}

fn is_replaced() -> Result<()> {
    let mut agent = agent()?;
    let first = guardian_of(&agent)?;
    kill(first, Signal::SIGKILL)?;
    agent.wait_for_log("starting another", SOON)?;
    until("there is another", SOON, || {
        guardian_of(&agent).is_ok_and(|found| found != first)
    })?;
    let mut all = held(&agent, 3)?;
    ensure_ended(agent, &mut all)?;
    self::agent().map(drop)
}

fn is_guarded() -> Result<()> {
    let mut agent = agent()?;
    let guardian = guardian_of(&agent)?;
    for file in ["environ", "mem", "maps", "fd"] {
        let Err(error) = File::open(format!("/proc/{guardian}/{file}")) else {
            bail!("its {file} is open");
        };
        ensure!(error.raw_os_error() == Some(libc::EPERM), "{file}: {error}");
    }
    ensure!(ptrace::attach(guardian) == Err(nix::errno::Errno::EPERM));
    agent.wait_for(
        |event| event["type"] == "BLOCKED" && event["target_pid"] == guardian.as_raw(),
        SOON,
    )?;
    Ok(())
}

fn goes_with_its_agent() -> Result<()> {
    let is_there = |pid: Pid| Path::new(&format!("/proc/{pid}")).exists();
    let agent = agent()?;
    let guardian = guardian_of(&agent)?;
    ensure!(is_there(guardian));
    ensure!(agent.stop()?.success());
    ensure!(!is_there(guardian), "after an orderly end");
    let agent = self::agent()?;
    let guardian = guardian_of(&agent)?.as_raw().cast_unsigned();
    agent.kill()?;
    until("it ends", SOON, || {
        matches!(state(guardian), None | Some('Z'))
    })?;
    self::agent().map(drop)
}

/// Whoever kills both leaves programs stopped, and the next agent serves them.
fn killed_too() -> Result<()> {
    let first = agent()?;
    let mut all = held(&first, 3)?;
    kill(guardian_of(&first)?, Signal::SIGKILL)?;
    first.kill()?;
    let mut second = agent()?;
    for probe in &mut all {
        ensure_both(&probe.json(SOON)?, "hunter2")?;
        second.event("SEALED", probe.pid())?;
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    let (probe, _) = staying("probe-static")?;
    ensure!(File::open(format!("/proc/{}/environ", probe.pid())).is_err());
    Ok(())
}

/// Root in the scope opens what it waits on, and keeps it open.
fn nobody_holds_it_up() -> Result<()> {
    let first = agent()?;
    let guardian = guardian_of(&first)?;
    let hand = File::options()
        .write(true)
        .open(format!("/proc/{guardian}/fd/0"));
    println!("its input: {hand:?}");
    let mut all = held(&first, 3)?;
    ensure_ended(first, &mut all)?;
    drop(hand);
    agent().map(drop)
}
