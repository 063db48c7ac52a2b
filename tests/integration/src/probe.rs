//! Finds the probes of `fixtures/`, the programs that tests seal.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

/// All probes that `fixtures/build` makes.
pub const ALL: [&str; 8] = [
    "probe-static",
    "probe-static-pie",
    "probe-dynamic",
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
