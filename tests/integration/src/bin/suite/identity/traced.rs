//! Programs that somebody traces.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_none};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("identity::a_traced_program", a_traced_program)
        .test(
            "identity::a_traced_program_may_start_without",
            a_traced_program_may_start_without,
        )
}

/// Starts a probe that asked its parent, which is us, to trace it before it became the probe.
fn traced(output: &Path, stay: &str) -> Result<Pid> {
    let mut command = asked_for_token(probe::path("probe-static")?);
    command
        .args(["--sleep", stay])
        .stdout(File::create(output)?);
    // SAFETY: one system call, which needs nothing of the program that was forked.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    Ok(Pid::from_raw(command.spawn()?.id().cast_signed()))
}

/// Lets a traced child go on at every stop, until its end.
fn trace_to_its_end(pid: Pid) -> Result<WaitStatus> {
    loop {
        let status = waitpid(pid, Some(WaitPidFlag::__WALL))?;
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(status),
            // It may have been killed between its stop and our word.
            _ => drop(ptrace::cont(pid, None)),
        }
    }
}

/// Its tracer can make it run while it is held. It has no secrets then, and is killed all the same.
fn a_traced_program() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let pid = traced(&scratch.join("output"), "600")?;
    let status = trace_to_its_end(pid)?;
    ensure!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{status:?}"
    );
    let reason = agent.refusal(pid.as_raw().cast_unsigned())?;
    ensure!(reason.contains("traces it"), "{reason}");
    let said = fs::read_to_string(scratch.join("output"))?;
    ensure!(!said.contains("hunter2"), "{said}");
    Ok(())
}

fn a_traced_program_may_start_without() -> Result<()> {
    let scratch = Scratch::new()?;
    let config = Config::token_for("probe-static").policy("onFailure", "allow");
    let mut agent = Agent::run(&config)?;
    let pid = traced(&scratch.join("output"), "1")?;
    let status = trace_to_its_end(pid)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    ensure_none(&serde_json::from_slice(&fs::read(scratch.join("output"))?)?)?;
    let event = agent.event("REFUSED", pid.as_raw().cast_unsigned())?;
    ensure!(event["action"] == "started", "{event}");
    Ok(())
}
