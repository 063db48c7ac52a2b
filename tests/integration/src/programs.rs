//! Ordinary programs: a Debian system on a disk of the guest's.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::system;

/// The system's root, as everybody outside of it sees it.
pub fn root() -> Result<PathBuf> {
    let root = env::var_os("KERNELSEAL_PROGRAMS").map_or_else(|| "/programs".into(), PathBuf::from);
    if !root.join("usr/bin/gdb").is_file() {
        bail!(
            "there are no programs in {}; run `make guest-programs`, which fetches them and gives them to the guest",
            root.display()
        );
    }
    system::prepare(&root)?;
    Ok(root)
}

/// A command that runs one of them.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    system::command(&root()?, program)
}
