//! The process that serves the agent's answers: whoever connects to it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::process::{descriptors, status_number, until};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::SOON;
use crate::observe::{get, serving};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry.test("starving::who_serves_is_nobody", who_serves_is_nobody)
}

/// The process that serves the agent's answers.
pub(super) fn server_of(agent: &Agent) -> Result<u32> {
    let mut found = None;
    until("it serves", SOON, || {
        found = children(agent.pid()).into_iter().find(|child| {
            fs::read(format!("/proc/{child}/cmdline"))
                .is_ok_and(|words| words.split(|byte| *byte == 0).nth(1) == Some(b"http"))
        });
        found.is_some()
    })?;
    found.context("no process serves")
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| status_number(*pid, "PPid").is_ok_and(|of| of == u64::from(parent)))
        .collect()
}

pub(super) fn is_ready() -> bool {
    get("/ready").is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
}

/// It has no variables, no capabilities, no descriptors but its own, and is started again when it is killed.
fn who_serves_is_nobody() -> Result<()> {
    let mut agent = Agent::run(&serving())?;
    ensure!(is_ready());
    let server = server_of(&agent)?;
    let status = fs::read_to_string(format!("/proc/{server}/status"))?;
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.contains(line), "not `{line}` in\n{status}");
    }
    let user = status.lines().find(|line| line.starts_with("Uid:"));
    ensure!(user == Some("Uid:\t65534\t65534\t65534\t65534"), "{user:?}");
    let open = descriptors(server)?;
    ensure!(open <= 12, "{open} descriptors");
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL)?;
    agent.wait_for_log("is started again", SOON)?;
    until("it answers again", SOON, is_ready)?;
    let again = server_of(&agent)?;
    ensure!(again != server);
    agent.stop()?;
    until("it ends with its agent", SOON, || {
        !Path::new(&format!("/proc/{again}")).exists()
    })
}
