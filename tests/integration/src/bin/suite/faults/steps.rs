//! An agent is ended at every step of a delivery.

use std::hint::spin_loop;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::process::{state, stopped, until};
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

fn killed_at_every_step() -> Result<()> {
    /// Of each step so many, for each of the ends.
    const WANTED: usize = 2;
    const ROUNDS: u32 = 400;
    /// From round to round the agent gets so much longer, and after so many steps it begins anew.
    const FINER: Duration = Duration::from_micros(150);
    const STEPS: u32 = 60;
    let ends = [End::Kill, End::Abort, End::Both];
    let mut seen = [[0; 3]; 3];
    let mut serving = agent()?;
    for round in 0..ROUNDS {
        let which = round as usize % ends.len();
        let step = killed_after(&serving, FINER * (round / 3 % STEPS), ends[which]);
        let (step, mut probe, mut report) = step?;
        if let Some(step) = step {
            seen[which][step as usize] += 1;
        }
        let pid = probe.pid();
        let _dead = serving.stop()?;
        let is_there = state(pid).is_some_and(|state| state != 'Z');
        if step == Some(Step::Delivered) && is_there {
            ensure!(is_guarded(pid), "round {round}: open when the agent died");
        }
        serving = agent()?;
        let mut text = String::new();
        report.read_to_string(&mut text)?;
        let found: Value = serde_json::from_str(text.lines().next().unwrap_or("null"))?;
        let status = probe.0.wait()?;
        if found.is_null() {
            ensure!(
                status.signal() == Some(9),
                "round {round}, {step:?}: {status}"
            );
            ensure!(
                step != Some(Step::Delivered),
                "round {round}: it ran, and says nothing"
            );
        } else {
            ensure_both(&found, "hunter2").with_context(|| format!("round {round}, {step:?}"))?;
        }
        ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
        until("its files are gone", SOON, || {
            !secret_mounts().contains(&format!("/run/kernelseal/secrets/{pid}"))
        })?;
        if seen.iter().flatten().all(|count| *count >= WANTED) {
            println!("after {round} rounds: {seen:?}");
            return Ok(());
        }
    }
    bail!("not every step was met in {ROUNDS} rounds: {seen:?} (held, half, delivered; by end)")
}

/// Starts a program, lets the agent work on it for so long, looks how far it came, and ends the agent.
fn killed_after(
    agent: &Agent,
    time: Duration,
    end: End,
) -> Result<(Option<Step>, Started, ChildStdout)> {
    let mut command = target()?;
    // A pause, not to be gone before it is looked at.
    command.args(["--sleep", "1"]).stdout(Stdio::piped());
    let mut probe = Started(command.spawn()?);
    let report = probe.0.stdout.take().context("no output")?;
    let begin = Instant::now();
    while begin.elapsed() < time {
        spin_loop();
    }
    let whom = Pid::from_raw(agent.pid().cast_signed());
    kill(whom, Signal::SIGSTOP)?;
    until("the agent stops", SOON, || state(agent.pid()) == Some('T'))?;
    let has_files = secret_mounts().contains(&format!("/run/kernelseal/secrets/{}", probe.pid()));
    let mut said = [PollFd::new(report.as_fd(), PollFlags::POLLIN)];
    let has_said = poll(&mut said, PollTimeout::ZERO)? > 0;
    let step = match state(probe.pid()) {
        _ if has_said => Some(Step::Delivered),
        Some('T' | 't') if has_files => Some(Step::Half),
        Some('T' | 't') => Some(Step::Held),
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
    Ok((step, probe, report))
}
