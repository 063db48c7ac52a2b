//! The programs that a binding is about, in all the ways that a start can go: each says whether it went as it should.

use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::{self, run, state};
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::terminal;

/// How long a program may take to say what it found: the machine is busy, and emulated.
pub const SOON: Duration = Duration::from_mins(1);
/// How often to look after a traced program, and how long to look all the time before.
const POLL: Duration = Duration::from_millis(5);
const CLOSELY: Duration = Duration::from_millis(100);
/// What is given to every program.
pub const SECRET: &str = "hunter2";
/// Seconds that a program stays, to be killed before.
pub const STAY: &str = "600";
/// An ordinary user.
const USER: u32 = 1000;
/// Starts that are to be killed while they are held are killed by and by, so long apart.
const KILL_STEP: Duration = Duration::from_millis(2);

/// A way to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A static program of root's, which reports and ends.
    Static,
    /// A dynamic one.
    Dynamic,
    /// One of an ordinary user.
    OtherUser,
    /// One in a mount namespace that nobody else sees into.
    OwnMounts,
    /// A script that ends before its child, which reads the secret only then.
    Children,
    /// One under a terminal, while somebody asks for its environment.
    Terminal,
    /// One that is killed while its file is being looked at.
    KilledWhileHeld,
    /// One that its parent traces: it is refused.
    Traced,
    /// The right name on the wrong file: it is refused.
    Forged,
    /// One whose secret is nowhere: it is refused.
    Sourceless,
    /// The right name, but not the selector's user: it is none of our business.
    NotMeant,
}

impl Kind {
    /// A second's worth.
    pub const MIX: [Self; 20] = [
        Self::Static,
        Self::Terminal,
        Self::Static,
        Self::KilledWhileHeld,
        Self::Dynamic,
        Self::Children,
        Self::Static,
        Self::Traced,
        Self::OtherUser,
        Self::OwnMounts,
        Self::Static,
        Self::Forged,
        Self::Dynamic,
        Self::Children,
        Self::Static,
        Self::KilledWhileHeld,
        Self::Sourceless,
        Self::OwnMounts,
        Self::NotMeant,
        Self::Static,
    ];

    /// What becomes of it.
    pub fn fate(self) -> Fate {
        match self {
            Self::KilledWhileHeld => Fate::Killed,
            Self::Traced | Self::Forged | Self::Sourceless => Fate::Refused,
            Self::NotMeant => Fate::LeftAlone,
            _ => Fate::Served,
        }
    }
}

/// What may become of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets its secrets.
    Served,
    /// It does not start.
    Refused,
    /// It starts without.
    LeftAlone,
    /// It is killed by us.
    Killed,
}

/// The programs, under names of their own.
pub struct Programs(Scratch);

impl Programs {
    /// Copies them to where they are started from.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        for name in [
            "soak-static",
            "soak-slow",
            "soak-forged",
            "soak-sourceless",
            "soak-user",
        ] {
            scratch.probe("probe-static", name)?;
        }
        scratch.probe("probe-dynamic", "soak-dynamic")?;
        // Each line in one piece: on a busy machine they come at once.
        let script =
            "#!/bin/sh\n(sleep 0.3; echo $(cat $KERNELSEAL_SECRETS_DIR/TOKEN)) &\necho $TOKEN\n";
        scratch.program("soak-app.sh", script)?;
        Ok(Self(scratch))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What is said about them.
    pub fn config(&self) -> Result<Config> {
        let slow = self.path("soak-slow");
        let digest = run(Command::new("sha256sum").arg(&slow))?;
        let digest = digest.split_whitespace().next().context("no digest")?;
        let elsewhere = probe::path("probe-static")?;
        let elsewhere = elsewhere.with_file_name("soak-forged");
        Ok(Config::token_for("soak-static")
            .and_seal("soak-dynamic")
            .value("TOKEN", SECRET)
            .and_seal("soak-app.sh")
            .value("TOKEN", SECRET)
            .and_seal(&slow.to_string_lossy())
            .selector("sha256", digest)
            .value("TOKEN", SECRET)
            .and_seal(&elsewhere.to_string_lossy())
            .value("TOKEN", SECRET)
            .and_seal("soak-sourceless")
            .secret("TOKEN", json!({"fileRef": "/nowhere/token"}))
            .and_seal("soak-user")
            .selector("uid", USER)
            .value("TOKEN", SECRET)
            .policy("holdTimeout", "1m"))
    }

    fn command(&self, name: &str) -> Command {
        asked_for_token(self.path(name))
    }

    /// Starts one and waits for its end. `number` tells starts apart.
    pub fn start(&self, kind: Kind, number: u64) -> Result<()> {
        match kind {
            Kind::Static => served(&mut self.command("soak-static")),
            Kind::Dynamic => served(&mut self.command("soak-dynamic")),
            Kind::OtherUser => served(self.command("soak-static").uid(USER).gid(USER)),
            Kind::OwnMounts => {
                let mut command = self.command("soak-static");
                // SAFETY: two system calls, which need nothing of the program that was forked.
                unsafe { command.pre_exec(|| Ok(leave_mounts()?)) };
                served(&mut command)
            }
            Kind::Children => leaves_a_child(&mut self.command("soak-app.sh")),
            Kind::Terminal => terminal::start(&mut self.command("soak-static")),
            Kind::KilledWhileHeld => killed(&mut self.command("soak-slow"), number),
            Kind::Traced => traced(&mut self.command("soak-static")),
            Kind::Forged => refused(&mut self.command("soak-forged")),
            Kind::Sourceless => refused(&mut self.command("soak-sourceless")),
            Kind::NotMeant => {
                let (mut probe, found) = report(&mut self.command("soak-user"))?;
                ensure_none(&found)?;
                ensure!(probe.wait(SOON)?.success());
                Ok(())
            }
        }
    }
}

fn leave_mounts() -> nix::Result<()> {
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
}

fn served(command: &mut Command) -> Result<()> {
    let mut probe = process::spawn(command)?;
    ensure_both(&probe.json(SOON)?, SECRET)?;
    let status = probe.wait(SOON)?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn refused(command: &mut Command) -> Result<()> {
    let mut probe = process::spawn(command)?;
    let status = probe.wait(SOON)?;
    ensure!(status.signal() == Some(libc::SIGKILL), "{status}");
    if let Ok(line) = probe.line(Duration::ZERO) {
        bail!("it started and said {line}");
    }
    Ok(())
}

fn leaves_a_child(command: &mut Command) -> Result<()> {
    let mut parent = process::spawn(command)?;
    let found = parent.line(SOON)?;
    ensure!(found == SECRET, "the parent found {found:?}");
    ensure!(parent.wait(SOON)?.success());
    let found = parent.line(SOON).context("its child")?;
    ensure!(found == SECRET, "the child found {found:?}");
    Ok(())
}

/// Kills it as soon as it is stopped, or a moment later.
fn killed(command: &mut Command, number: u64) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let begin = Instant::now();
    while state(child.id()) == Some('R') && begin.elapsed() < SOON {
        thread::yield_now();
    }
    thread::sleep(KILL_STEP * u32::try_from(number % 8)?);
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Its tracer lets it go on whenever it stops, also when it is held: it runs then, without secrets, until it is killed.
fn traced(command: &mut Command) -> Result<()> {
    command
        .args(["--sleep", STAY])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // SAFETY: one system call, which needs nothing of the program that was forked.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let begin = Instant::now();
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => break,
            WaitStatus::StillAlive if begin.elapsed() > SOON => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
                child.kill()?;
                child.wait()?;
                bail!("it was not refused, and runs on:\n{status}")
            }
            // At first it is waited for as closely as a tracer does that only waits.
            WaitStatus::StillAlive if begin.elapsed() < CLOSELY => thread::yield_now(),
            WaitStatus::StillAlive => thread::sleep(POLL),
            status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                bail!("it was not refused, and ended with {status:?}")
            }
            // It may have been killed between its stop and our word.
            _ => drop(ptrace::cont(pid, None)),
        }
    }
    let mut said = String::new();
    child
        .stdout
        .take()
        .context("no pipe")?
        .read_to_string(&mut said)?;
    ensure!(!said.contains(SECRET), "it said {said}");
    Ok(())
}
