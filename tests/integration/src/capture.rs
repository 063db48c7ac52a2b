//! Collects what a test and its children print, so that only a failing test is heard.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{dup2_stderr, dup2_stdout};

/// While it lives, standard output and standard error go to memory.
pub struct Capture {
    memory: File,
    stdout: File,
    stderr: File,
}

impl Capture {
    /// Redirects both streams.
    pub fn start() -> Result<Self> {
        io::stdout()
            .flush()
            .context("cannot flush standard output")?;
        let memory =
            File::from(memfd_create(c"captured", MFdFlags::MFD_CLOEXEC).context("memfd_create")?);
        // Closed on exec, so that a child left behind does not hold the pipe of whoever reads us.
        let capture = Self {
            memory,
            stdout: File::from(
                io::stdout()
                    .as_fd()
                    .try_clone_to_owned()
                    .context("cannot duplicate standard output")?,
            ),
            stderr: File::from(
                io::stderr()
                    .as_fd()
                    .try_clone_to_owned()
                    .context("cannot duplicate standard error")?,
            ),
        };
        dup2_stdout(&capture.memory).context("cannot redirect standard output")?;
        dup2_stderr(&capture.memory).context("cannot redirect standard error")?;
        Ok(capture)
    }

    /// What was printed so far.
    pub fn text(&self) -> String {
        let _ = io::stdout().flush();
        let mut bytes = vec![
            0;
            self.memory
                .metadata()
                .map_or(0, |data| data.len().try_into().unwrap_or(0))
        ];
        // At a position of its own: children share the file's, and go on writing there. Reading from memory
        // cannot fail; if it did, the test's own message would still be shown.
        let _ = self.memory.read_exact_at(&mut bytes, 0);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The standard output there was before.
    pub fn original(&self) -> io::Result<File> {
        self.stdout.try_clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = io::stdout().flush();
        // The descriptors were valid when they were duplicated, so this cannot fail.
        let _ = dup2_stdout(&self.stdout);
        let _ = dup2_stderr(&self.stderr);
    }
}
