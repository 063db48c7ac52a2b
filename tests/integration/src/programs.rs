//! Ordinary programs: a Debian system on a disk of the guest's.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::system;

/// The system's root, as everybody outside of it sees it.
pub fn root() -> Result<PathBuf> {
    let root = system::disk(
        "KERNELSEAL_PROGRAMS",
        "/programs",
        "usr/bin/gdb",
        "make guest-programs",
    )?;
    system::prepare(&root)?;
    Ok(root)
}

/// A command that runs one of them.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    system::command(&root()?, program)
}
