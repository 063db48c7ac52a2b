//! A program that ends with us: also when this process is killed, or never drops what it has.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

/// Ends it, and takes the folder away, on a signal to all of us and when the other end of its standard
/// input is closed, which the kernel sees to.
const KEEPER: &str = r#"trap : HUP INT TERM; folder=$1; shift; "$@" & program=$!
read -r _; kill "$program"; wait "$program"; rm -rf "$folder""#;

/// A program on a leash. Ends it when dropped.
pub struct Leash {
    keeper: Child,
}

impl Leash {
    /// Starts a program whose files and log are in a folder, which goes with it.
    pub fn start(program: &Path, arguments: &[String], folder: &Path) -> Result<Self> {
        let name = program.file_name().context("a program")?;
        let log = folder.join(name).with_extension("log");
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self { keeper })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
