//! A program on a terminal of its own, and somebody who types.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::pty::openpty;

use crate::process::{until, wait};

const SOON: Duration = Duration::from_secs(20);

/// A program whose controlling terminal is ours to type on. Dropping it hangs up.
#[derive(Debug)]
pub struct Terminal {
    program: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program, such as an interactive shell, on a new terminal.
    pub fn open(command: &mut Command) -> Result<Self> {
        let pair = openpty(None, None).context("openpty")?;
        let terminal = File::from(pair.slave);
        command
            .stdin(Stdio::from(terminal.try_clone()?))
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::from(terminal));
        // SAFETY: two system calls, which need nothing of the program that was forked.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let program = command
            .spawn()
            .context("cannot start a program on a terminal")?;
        // The terminal's other end is the program's alone: it ends with the program.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let keyboard = File::from(pair.master);
        let mut display = keyboard.try_clone()?;
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = screen.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error when the program is gone.
            while let Ok(count @ 1..) = display.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.push_str(&text);
            }
        });
        Ok(Self {
            program,
            keyboard,
            screen,
        })
    }

    /// The number of the program's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// All that was shown until now.
    #[must_use]
    pub fn screen(&self) -> String {
        let screen = self.screen.lock();
        screen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Types a line and waits until `mark` is on the screen so often.
    pub fn type_line(&mut self, line: &str, mark: &str, times: usize) -> Result<()> {
        self.type_keys(&format!("{line}\n"))?;
        self.shows(mark, times).with_context(|| line.to_owned())
    }

    /// Types, and does not wait.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard
            .write_all(keys.as_bytes())
            .context("cannot type")
    }

    /// Waits for the program's end.
    pub fn ended(&mut self) -> Result<()> {
        let status = wait(&mut self.program, SOON)?;
        status.with_context(|| format!("it did not end:\n{}", self.screen()))?;
        Ok(())
    }

    /// Waits until `mark` is on the screen so often.
    pub fn shows(&self, mark: &str, times: usize) -> Result<()> {
        until(mark, SOON, || self.screen().matches(mark).count() >= times)
            .with_context(|| self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What it started hangs up with it.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
