//! An agent that nobody listens to: its events and its log go to files, and are read when it has ended or when somebody asks.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process;

/// How long it may take to be ready; the first on a machine loads the kernel side.
const READY: Duration = Duration::from_mins(2);
/// How long it may take to end.
const END: Duration = Duration::from_mins(1);

/// A running agent; dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    /// Completes a command that leads to the agent, starts it, and waits until it watches. Its files are in `folder`.
    pub fn start_as(mut command: Command, folder: PathBuf, config: &str) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let file = folder.join("config.yaml");
        fs::write(&file, config)?;
        let child = command
            .args([OsStr::new("run"), OsStr::new("--config"), file.as_os_str()])
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("events"))?)
            .stderr(File::create(folder.join("log"))?)
            .spawn()
            .context("cannot start the agent")?;
        let mut agent = Self { child, folder };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let log = self.log()?;
            if log.contains("watching") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended ({status}):\n{log}");
            }
            ensure!(begin.elapsed() < READY, "the agent is not ready:\n{log}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The number of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("log"))?)
    }

    /// What it has told.
    pub fn events(&self) -> Result<Vec<Value>> {
        self.all_events()?.collect()
    }

    /// The same, one after another.
    pub fn all_events(&self) -> Result<impl Iterator<Item = Result<Value>> + use<>> {
        read_events(&self.folder.join("events"))
    }

    /// Asks it to end, and gives its exit status.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.terminate()
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        if let Some(status) = process::wait(&mut self.child, END)? {
            return Ok(status);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("the agent did not end within {END:?} of SIGTERM and was killed")
    }
}

/// The events in a file, one after another: there may be more than memory should hold.
pub fn read_events(path: &Path) -> Result<impl Iterator<Item = Result<Value>> + use<>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::new(file).lines().map(move |line| {
        let line = line?;
        serde_json::from_str(&line).with_context(|| format!("not an event: {line}"))
    }))
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("{error:#}");
        }
    }
}
