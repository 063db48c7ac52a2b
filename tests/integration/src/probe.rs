//! Finds the probes of `fixtures/`, the programs that tests seal.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::process::{self, Running};

/// How long a probe may take to report.
const SOON: Duration = Duration::from_secs(20);

/// All probes that `fixtures/build` makes.
pub const ALL: &[&str] = &[
    "probe-static",
    "probe-static-pie",
    "probe-dynamic",
    #[cfg(target_arch = "x86_64")]
    "probe-32",
    "probe-go",
    "probe-rust",
    "probe.py",
    "probe.sh",
];

/// Where a probe is: in `$KERNELSEAL_FIXTURES`, or where guests have them.
pub fn path(name: &str) -> Result<PathBuf> {
    let folder = env::var_os("KERNELSEAL_FIXTURES")
        .map_or_else(|| "/usr/lib/kernelseal/fixtures".into(), PathBuf::from);
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing; run fixtures/build and name the folder in KERNELSEAL_FIXTURES",
            path.display()
        );
    }
    Ok(path)
}

/// A command that runs a probe with nothing in its environment but a `PATH`.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(path(name)?);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    Ok(command)
}

/// A command that runs a program that takes a probe's options and reports the secret `TOKEN`.
pub fn asked_for_token(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["--env", "TOKEN", "--file", "TOKEN"]);
    command
}

/// Starts the same and gives its report; it runs on as long as its arguments say.
pub fn report(command: &mut Command) -> Result<(Running, Value)> {
    let mut probe = process::spawn(command)?;
    let found = probe.json(SOON)?;
    Ok((probe, found))
}

/// The usual target: a probe that has told what it found, and stays until it is dropped.
pub fn staying(name: &str) -> Result<(Running, Value)> {
    report(asked_for_token(path(name)?).args(["--sleep", "600"]))
}

/// Fails unless the probe found the secret both as a variable and as a file.
pub fn ensure_both(found: &Value, value: &str) -> Result<()> {
    ensure!(found["env"]["TOKEN"] == value, "no variable: {found}");
    ensure!(
        found["files"]["TOKEN"]["content"] == value,
        "no file: {found}"
    );
    Ok(())
}

/// Fails if the probe found the secret at all.
pub fn ensure_none(found: &Value) -> Result<()> {
    ensure!(found["env"]["TOKEN"].is_null(), "a variable: {found}");
    ensure!(
        found["files"]["TOKEN"]["content"].is_null(),
        "a file: {found}"
    );
    Ok(())
}
