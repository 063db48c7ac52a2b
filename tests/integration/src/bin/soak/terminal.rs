//! A program that is started under a terminal of its own, as by hand in a shell.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;

use crate::kinds::{SECRET, SOON, STAY};

/// It stays until it is killed: one that began before the agent was there has said so, and starts over.
pub fn start(command: &mut Command) -> Result<()> {
    let pair = openpty(None, None).context("openpty")?;
    for end in [&pair.master, &pair.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let terminal = File::from(pair.slave);
    command
        .args(["--sleep", STAY])
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal);
    // SAFETY: two system calls, which need nothing of the program that was forked.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let mut child = command.spawn().context("cannot start it")?;
    // (the command has the terminal open)
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut screen = File::from(pair.master);
    let said = listen(&mut screen);
    let asked = fs::read(format!("/proc/{}/environ", child.id()));
    let _ = child.kill();
    child.wait()?;
    // (with it the terminal would hang up)
    drop(screen);
    said?;
    ensure!(asked.is_err(), "its environment could be read");
    Ok(())
}

/// Reads from a terminal until the secret came in both ways.
fn listen(screen: &mut File) -> Result<()> {
    let begin = Instant::now();
    let mut text = String::new();
    let variable = format!(r#""env":{{"TOKEN":"{SECRET}"}}"#);
    let file = format!(r#""files":{{"TOKEN":{{"content":"{SECRET}"}}}}"#);
    while !(text.contains(&variable) && text.contains(&file)) {
        let left = SOON.saturating_sub(begin.elapsed());
        let mut ready = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut ready, PollTimeout::try_from(left)?)?;
        ensure!(count > 0, "it said nothing more than {text:?}");
        let mut bytes = [0; 4096];
        match screen.read(&mut bytes) {
            Ok(count @ 1..) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
            // an error: everybody else has closed it
            _ => bail!("it ended, and said no more than {text:?}"),
        }
    }
    Ok(())
}
