//! What was noted of a start is lost before the start is complete, or outlives a start that failed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned;
use kernelseal_integration::probe::{
    self, asked_for_token, ensure_both, ensure_none, report, staying,
};
use kernelseal_integration::process::{self, run};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sidecar_common::layout::{MAX_HELD, SEALED_FILTER_SLOTS};
use sidecar_common::policy::Held;

use super::{SOON, lease, leases_last, nobody_is_stopped};
use crate::races::numbers::next_number;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::starts_without_number", starts_without_number)
        .test(
            "faults::a_note_of_an_earlier_process",
            a_note_of_an_earlier_process,
        )
}

/// What this test starts runs on one processor, as long as it lives.
struct OnOneProcessor(CpuSet);

impl OnOneProcessor {
    fn begin() -> Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let mut first = CpuSet::new();
        first.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &first)?;
        Ok(Self(before))
    }
}

impl Drop for OnOneProcessor {
    fn drop(&mut self) {
        sched_setaffinity(Pid::from_raw(0), &self.0).expect("the affinity can be set back");
    }
}

/// A lease makes an exec wait in its middle, for its interpreter. Meanwhile so many others begin and fail that what was noted
/// of it is lost: it does not start, whether it was sealed before or not. Where the note outlives them all (since each of them
/// waits for its agent first, it does on some kernels), it starts with its secrets.
fn starts_without_number() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    const USUAL: &str = "/lib64/ld-linux-x86-64.so.2";
    #[cfg(target_arch = "aarch64")]
    const USUAL: &str = "/lib/ld-linux-aarch64.so.1";
    const OWN: &str = "loader";
    /// A map of that kind has room for `MAX_HELD`, and a few less at times.
    const ENOUGH: usize = MAX_HELD + MAX_HELD / 2;
    const AT_ONCE: usize = 512;
    let folder = Scratch::new()?;
    let mut slow = fs::read(probe::path("probe-dynamic")?)?;
    let at = slow
        .windows(USUAL.len())
        .position(|part| part == USUAL.as_bytes())
        .context("no interpreter in probe-dynamic")?;
    slow[at..at + USUAL.len()].fill(0);
    slow[at..at + OWN.len()].copy_from_slice(OWN.as_bytes());
    folder.program("slow", slow)?;
    folder.program(OWN, fs::read(USUAL)?)?;
    let slow = "exec ./slow --env TOKEN --file TOKEN";
    folder.program("outer.sh", format!("#!/bin/sh\n{slow}\n"))?;
    let config = Config::token_for("slow").and_seal("outer.sh");
    let config = config.value("TOKEN", "hunter2").policy("holdTimeout", "3m");
    let mut agent = Agent::run(&config)?;
    let _patience = leases_last()?;
    // (text: for anything else the kernel looks for a module that knows it)
    let no_program = folder.program("no/slow", "no program\n")?;
    // (each has some notes of its own, that no other displaces)
    let _one = OnOneProcessor::begin()?;
    let target = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(folder.path());
        process::spawn(&mut command)
    };

    for script in [slow, "exec ./outer.sh"] {
        let mut lease = lease(&folder.path().join(OWN))?;
        let mut victim = target(script)?;
        ensure!(lease.line(SOON)? == "asked");
        let pending = pinned::hash::<u32, [u8; size_of::<Held>()]>("PENDING")?;
        let mut failed = 0;
        let is_noted = || pending.get(&victim.pid(), 0).is_ok();
        while failed < ENOUGH && is_noted() {
            run(Command::new(probe::path("fail")?)
                .arg(&no_program)
                .arg(AT_ONCE.to_string()))?;
            failed += AT_ONCE;
        }
        ensure!(failed > MAX_HELD / 2, "it was read after {failed} others");
        let is_noted = is_noted();
        lease.signal(Signal::SIGKILL)?;
        if is_noted {
            ensure_both(&victim.json(SOON)?, "hunter2").context(script)?;
            continue;
        }
        let status = victim.wait(SOON)?;
        ensure!(status.signal() == Some(9), "{script}: {status}");
        let said = agent.refusal(victim.pid())?;
        ensure!(said.contains("failed while it started"), "{said}");
        nobody_is_stopped()?;
        let found = target(script)?.json(SOON)?;
        ensure_both(&found, "hunter2").context(script)?;
    }
    Ok(())
}

/// It says nothing about the next process of that number.
fn a_note_of_an_earlier_process() -> Result<()> {
    const WANTED: u32 = 3;
    let folder = Scratch::new()?;
    let no_program = folder.program("probe-static", "no program\n")?;
    let other = folder.probe("probe-static", "other")?;
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    // A number that the kernel side's filter takes for that of a sealed process.
    let (sealed, _) = staying("probe-static")?;
    let number = sealed.pid() + SEALED_FILTER_SLOTS;
    let pending = pinned::hash::<u32, [u8; size_of::<Held>()]>("PENDING")?;
    let mut met = 0;
    for _ in 0..50 {
        next_number(number)?;
        ensure!(Command::new(&no_program).spawn().is_err());
        if pending.get(&number, 0).is_err() {
            continue; // another process was quicker
        }
        next_number(number)?;
        let (mut probe, found) = report(&mut asked_for_token(&other))?;
        ensure_none(&found)?;
        let status = probe.wait(SOON)?;
        ensure!(status.success(), "{status}");
        met += u32::from(probe.pid() == number);
        if met == WANTED {
            return Ok(());
        }
    }
    bail!("the number came again {met} times")
}
