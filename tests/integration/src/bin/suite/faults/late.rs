//! The time that a program may be held is over while it is given its secrets, and it is let go without them.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{ensure_both, ensure_none, report};
use kernelseal_integration::process::{is_traced, spawn, state, threads_called, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{SOON, nobody_is_stopped, target};

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::a_late_delivery", a_late_delivery)
        .test(
            "faults::one_that_ends_while_it_waits",
            one_that_ends_while_it_waits,
        )
}

/// Threads of a process, which have less of the processors than they want.
struct Slowed<'t> {
    group: &'t Path,
}

impl<'t> Slowed<'t> {
    fn begin(process: u32, thread: &str, group: &'t Path) -> Result<Self> {
        let slow = group.join("slow");
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu")?;
        fs::create_dir_all(&slow)?;
        fs::write(group.join("cgroup.procs"), process.to_string())?;
        fs::write(slow.join("cgroup.type"), "threaded")?;
        fs::write(group.join("cgroup.subtree_control"), "+cpu")?;
        for thread in threads_called(process, thread)? {
            fs::write(slow.join("cgroup.threads"), thread.to_string())?;
        }
        Ok(Self { group })
    }

    /// So many microseconds of each second.
    fn gets(&self, time: &str) -> Result<()> {
        fs::write(self.group.join("slow/cpu.max"), format!("{time} 1000000"))?;
        Ok(())
    }
}

/// Whoever was let go without secrets has none, wherever in the delivery that was.
fn a_late_delivery() -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/late";
    const TIMES: usize = 8;
    /// So many that giving them takes the thread more than one turn.
    const SECRETS: usize = 40;
    let mut config = Config::token_for("probe-static")
        .policy("onFailure", "allow")
        .policy("holdTimeout", "1s");
    for number in 0..SECRETS {
        config = config.value(&format!("OTHER_{number}"), &"x".repeat(1000));
    }
    let mut agent = Agent::run(&config)?;
    let slowed = Slowed::begin(agent.pid(), "sealer", Path::new(GROUP))?;
    let mut given_up = 0;
    for _ in 0..TIMES {
        slowed.gets("1000")?;
        let mut probe = spawn(target()?.args(["--sleep", "600"]))?;
        let is_told = |event: &Value| {
            event["pid"] == probe.pid() && (event["type"] == "SEALED" || event["type"] == "REFUSED")
        };
        let event = agent.wait_for(is_told, 4 * SOON)?;
        slowed.gets("max")?;
        until("nobody is attached", SOON, || {
            is_traced(probe.pid()) != Some(true)
        })?;
        if event["type"] == "SEALED" {
            ensure_both(&probe.json(SOON)?, "hunter2")?;
            ensure!(File::open(format!("/proc/{}/environ", probe.pid())).is_err());
            continue;
        }
        given_up += 1;
        let reason = event["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("longer than policy.holdTimeout"), "{event}");
        match probe.json(SOON) {
            Ok(found) => ensure_none(&found).with_context(|| event.to_string())?,
            // Ended instead: what was written of them is not let out.
            Err(_) if matches!(state(probe.pid()), None | Some('Z')) => {}
            Err(error) => return Err(error),
        }
    }
    ensure!(given_up > 0, "none was late");
    let (_probe, found) = report(&mut target()?)?;
    ensure_both(&found, "hunter2")?;
    agent.stop()?;
    nobody_is_stopped()?;
    fs::remove_dir(Path::new(GROUP).join("slow"))?;
    fs::remove_dir(GROUP)?;
    Ok(())
}

/// The agent traces it, and until that lets go nobody hears of its end: it hears at once, though there is nothing else to do.
fn one_that_ends_while_it_waits() -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/waits";
    /// Far longer than it takes to slow who reads it down, in bytes.
    const LENGTH: u64 = 1 << 30;
    let folder = Scratch::within(Path::new("/ext4"))?;
    let long = folder.probe("probe-static", "long")?;
    File::options().write(true).open(&long)?.set_len(LENGTH)?;
    let config = Config::token_for("long").selector("sha256", "0".repeat(64));
    let agent = Agent::run(&config.policy("holdTimeout", "4m"))?;
    let mut waits = spawn(&mut Command::new(&long))?;
    until("its file is read", SOON, || {
        threads_called(agent.pid(), "digests").is_ok()
    })?;
    let slowed = Slowed::begin(agent.pid(), "digests", Path::new(GROUP))?;
    slowed.gets("1000")?;
    until("it waits", SOON, || is_traced(waits.pid()) == Some(true))?;
    waits.signal(Signal::SIGKILL)?;
    let status = waits.wait(SOON)?;
    ensure!(status.signal() == Some(Signal::SIGKILL as i32), "{status}");
    slowed.gets("max")?;
    agent.stop()?;
    fs::remove_dir(Path::new(GROUP).join("slow"))?;
    fs::remove_dir(GROUP)?;
    Ok(())
}
