//! An agent is ended at every step of a delivery.

use std::fs::File;
use std::hint::spin_loop;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::process::{by_a_shell, state, stopped, until, waits_for_agent};
use kernelseal_integration::registry::Registry;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{SOON, Started, agent, is_guarded, secret_mounts, target};
use crate::guardian::guardian_of;

const LIMIT: Duration = Duration::from_mins(5);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry.slow_test("faults::killed_at_every_step", LIMIT, killed_at_every_step)
}

/// How far a delivery had come when its agent was stopped to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing of it is in the program's sight.
    Held,
    /// Its files are there, and it has not run.
    Half,
    /// It runs.
    Delivered,
}

/// How an agent ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Abort,
    /// Its guardian with it, as of a control group out of memory.
    Both,
}

/// When the agent is stopped.
#[derive(Clone, Copy, Debug)]
enum When {
    /// At that step.
    At(Step),
    /// So long after the program was started.
    After(Duration),
}

fn killed_at_every_step() -> Result<()> {
    /// Of each step so many, for each of the ends.
    const WANTED: usize = 2;
    const ROUNDS: usize = 120;
    /// What is in between, too.
    const FINER: Duration = Duration::from_micros(400);
    const BETWEEN: usize = 24;
    let ends = [End::Kill, End::Abort, End::Both];
    let steps = [Step::Held, Step::Half, Step::Delivered];
    let mut seen = [[0; 3]; 3];
    let mut serving = agent()?;
    for round in 0..ROUNDS {
        let which = round % ends.len();
        let missing = steps
            .iter()
            .find(|step| seen[which][**step as usize] < WANTED);
        let when = match missing {
            _ if round < BETWEEN => When::After(FINER * u32::try_from(round)?),
            Some(step) => When::At(*step),
            None if seen.iter().flatten().all(|count| *count >= WANTED) => {
                println!("after {round} rounds: {seen:?}");
                return Ok(());
            }
            None => continue,
        };
        let what = format!("round {round}, {when:?}, {:?}", ends[which]);
        let (step, next) = round_of(serving, when, ends[which]).context(what)?;
        serving = next;
        if let Some(step) = step {
            seen[which][step as usize] += 1;
        }
    }
    bail!("not every step was met in {ROUNDS} rounds: {seen:?} (held, half, delivered; by end)")
}

/// Ends an agent while it works on a program, starts another, and looks at what became of the program.
fn round_of(serving: Agent, when: When, end: End) -> Result<(Option<Step>, Agent)> {
    let (step, mut probe, mut report) = killed_while(&serving, when, end)?;
    let pid = probe.pid();
    let _dead = serving.stop()?;
    let is_there = state(pid).is_some_and(|state| state != 'Z');
    if step == Some(Step::Delivered) && is_there {
        ensure!(is_guarded(pid), "open when the agent died");
    }
    let next = agent()?;
    let mut line = String::new();
    report.read_line(&mut line)?;
    if line.is_empty() {
        let status = probe.0.wait()?;
        // (refused at its exec, where nobody came in time)
        ensure!(
            matches!(
                (status.signal(), status.code()),
                (Some(9), _) | (_, Some(126))
            ),
            "{step:?}: {status}"
        );
        ensure!(step != Some(Step::Delivered), "it ran, and says nothing");
    } else {
        let found: Value = serde_json::from_str(&line)?;
        ensure_both(&found, "hunter2").with_context(|| format!("{step:?}"))?;
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    drop(probe);
    until("its files are gone", SOON, || !has_files(pid))?;
    Ok((step, next))
}

fn has_files(pid: u32) -> bool {
    secret_mounts().contains(&format!("/run/kernelseal/secrets/{pid}"))
}

/// Starts a program, lets the agent work on it, stops it to see how far it came, and ends it.
fn killed_while(
    agent: &Agent,
    when: When,
    end: End,
) -> Result<(Option<Step>, Started, BufReader<ChildStdout>)> {
    let whom = Pid::from_raw(agent.pid().cast_signed());
    let pause = || -> Result<()> {
        kill(whom, Signal::SIGSTOP)?;
        until("the agent stops", SOON, || state(agent.pid()) == Some('T'))
    };
    if let When::At(Step::Held) = when {
        pause()?;
    }
    let mounts = File::open("/proc/self/mountinfo")?;
    let mut command = target()?;
    // Not to be gone before it is looked at.
    command.args(["--sleep", "600"]);
    let mut probe = Started(by_a_shell(&command).stdout(Stdio::piped()).spawn()?);
    let report = probe.0.stdout.take().context("no output")?;
    let wait_for = |what: BorrowedFd<'_>, event| -> Result<()> {
        let came = poll(
            &mut [PollFd::new(what, event)],
            PollTimeout::try_from(SOON)?,
        )?;
        ensure!(came == 1, "{when:?} did not come");
        Ok(())
    };
    match when {
        When::After(time) => {
            let begin = Instant::now();
            while begin.elapsed() < time {
                spin_loop();
            }
        }
        When::At(Step::Held) => until("it is held", SOON, || waits_for_agent(probe.pid()))?,
        // (a change of the mounts)
        When::At(Step::Half) => wait_for(mounts.as_fd(), PollFlags::POLLPRI)?,
        When::At(Step::Delivered) => wait_for(report.as_fd(), PollFlags::POLLIN)?,
    }
    pause()?;
    let mut said = [PollFd::new(report.as_fd(), PollFlags::POLLIN)];
    let has_said = poll(&mut said, PollTimeout::ZERO)? > 0;
    let step = match state(probe.pid()) {
        _ if has_said => Some(Step::Delivered),
        Some('T' | 't') if has_files(probe.pid()) => Some(Step::Half),
        Some('T' | 't') => Some(Step::Held),
        _ if waits_for_agent(probe.pid()) => Some(Step::Held),
        // on its way into its stop, or out of it
        _ => None,
    };
    let guardian = guardian_of(agent)?;
    match end {
        End::Kill => kill(whom, Signal::SIGKILL)?,
        End::Abort => {
            kill(whom, Signal::SIGABRT)?;
            kill(whom, Signal::SIGCONT)?;
        }
        End::Both => {
            kill(guardian, Signal::SIGKILL)?;
            kill(whom, Signal::SIGKILL)?;
        }
    }
    Ok((step, probe, BufReader::new(report)))
}
