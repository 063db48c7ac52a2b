//! A program's number, when it is somebody else's by now.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{ensure_both, report, staying};
use kernelseal_integration::process::{self, state, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;

use super::{SOON, target};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "races::numbers_wrap_around",
            Duration::from_mins(4),
            numbers_wrap_around,
        )
        .test("races::a_number_is_used_again", a_number_is_used_again)
}

/// A kernel setting, put back when the test ends.
pub struct Setting(&'static str, String);

impl Setting {
    /// Changes it for as long as this lives.
    pub fn change(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| path)?;
        fs::write(path, value).with_context(|| path)?;
        Ok(Self(path, before))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.0, &self.1).expect("what was there can be written back");
    }
}

fn numbers_wrap_around() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let _setting = Setting::change("/proc/sys/kernel/pid_max", "400")?;
    let (stays, _) = staying("probe-static")?;
    let (mut wraps, mut last) = (0, 0);
    while wraps < 3 {
        let (mut probe, found) = report(&mut target()?)?;
        ensure_both(&found, "hunter2")?;
        ensure!(probe.wait(SOON)?.success());
        wraps += i32::from(probe.pid() < last);
        last = probe.pid();
    }
    let environ = fs::read(format!("/proc/{}/environ", stays.pid()));
    ensure!(environ.is_err(), "the one that stays is open now");
    Ok(())
}

/// The next process gets this number.
pub fn next_number(pid: u32) -> Result<()> {
    let path = "/proc/sys/kernel/ns_last_pid";
    fs::write(path, (pid - 1).to_string()).with_context(|| path)
}

/// A daemon keeps the files of a parent that is gone; another program gets the parent's number.
fn a_number_is_used_again() -> Result<()> {
    let scratch = Scratch::new()?;
    let daemon = scratch.program(
        "daemon.sh",
        "#!/bin/sh\nsetsid sh -c 'echo $$; exec >/dev/null; sleep 600' &\nsleep 0.2\n",
    )?;
    let _agent = Agent::run(
        &Config::token_for("daemon.sh")
            .and_seal("probe-static")
            .value("TOKEN", "of the second"),
    )?;
    let mut parent = process::spawn(&mut Command::new(daemon))?;
    let child: u32 = parent.line(SOON)?.parse()?;
    ensure!(parent.wait(SOON)?.success());
    let mut probe = None;
    for _ in 0..50 {
        next_number(parent.pid())?;
        let (second, found) = staying("probe-static")?;
        ensure_both(&found, "of the second")?;
        if second.pid() == parent.pid() {
            probe = Some(second);
            break;
        }
    }
    let probe = probe.context("the number did not come again")?;
    // The place named by the number alone is still the daemon's.
    let folder = format!("/run/kernelseal/secrets/{}-2", probe.pid());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.cast_signed()),
        Signal::SIGKILL,
    )?;
    until("the daemon goes", SOON, || state(child).is_none())?;
    // Its files are taken away, and nobody else's. There is no event to wait for.
    std::thread::sleep(Duration::from_millis(300));
    let data = fs::metadata(Path::new(&folder).join("TOKEN"));
    ensure!(
        data.is_ok_and(|data| data.len() == 13),
        "its files are gone"
    );
    Ok(())
}
