//! Runs programs in a PID and mount namespace of their own with a fresh `/proc`, as a pod does.
//!
//! A namespace's first process must be a child of the one that asked for it. So the test program
//! starts itself twice under a secret name: the outer copy asks for the namespaces and passes signals
//! and the exit status on; the inner copy is process 1, mounts `/proc` and becomes the program.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

const OUTER: &str = "__kernelseal-pid-namespace";
const INNER: &str = "__kernelseal-pid-namespace-init";
const JOIN: &str = "__kernelseal-join";
const JOINED: &str = "__kernelseal-joined";
/// What the outer copy hands on to the program.
const PASSED_ON: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
];

/// A command that will run `program` as process 1 of a new PID namespace. Arguments, variables and streams
/// are set on it as on any other command. Works in programs whose `main` is [`crate::registry::Registry::main`].
#[must_use]
pub fn in_pid_namespace(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(OUTER).arg(program);
    command
}

/// A command that will run `program` beside process `neighbour`, in its PID and mount namespaces.
pub fn beside(neighbour: u32, program: impl AsRef<OsStr>) -> Result<Command> {
    // Not by /proc/self/exe: the neighbour's own /proc does not know us.
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.arg(JOIN).arg(neighbour.to_string()).arg(program);
    Ok(command)
}

/// Does the work of the copies, when this process is one. [`crate::registry::Registry::main`] calls it first; so
/// must the `main` of any other program that uses this module.
#[must_use]
pub fn intercept() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let role = arguments.next()?;
    let rest: Vec<OsString> = arguments.collect();
    let result = match role.to_str()? {
        OUTER => outer(&rest),
        INNER => inner(&rest),
        JOIN => join(&rest),
        JOINED => become_program(&rest).map(|never| match never {}),
        _ => return None,
    };
    Some(result.unwrap_or_else(|error| {
        eprintln!("namespace: {error:#}");
        ExitCode::FAILURE
    }))
}

fn outer(program: &[OsString]) -> Result<ExitCode> {
    let awaited = prepare()?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace; are we root?")?;
    let mut child = Command::new("/proc/self/exe");
    child.arg(INNER).args(program);
    accompany(&awaited, &mut child)
}

fn join(arguments: &[OsString]) -> Result<ExitCode> {
    let awaited = prepare()?;
    let own = env::current_exe().context("cannot find this program")?;
    let (neighbour, program) = arguments.split_first().context("no neighbour to join")?;
    let folder = Path::new("/proc").join(neighbour).join("ns");
    let open = |kind: &str| {
        let path = folder.join(kind);
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    };
    let (pid, mnt) = (open("pid")?, open("mnt")?);
    setns(pid, CloneFlags::CLONE_NEWPID).context("cannot join a PID namespace")?;
    setns(mnt, CloneFlags::CLONE_NEWNS).context("cannot join a mount namespace")?;
    let mut child = Command::new(own);
    child.arg(JOINED).args(program);
    accompany(&awaited, &mut child)
}

/// Gets ready to hand signals on to a child, and gives those it will wait for.
fn prepare() -> Result<SigSet> {
    let mut awaited = SigSet::from_iter(PASSED_ON);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().context("cannot block signals")?;
    // The test that started us may die; then so do we, and our child with us.
    set_pdeathsig(Signal::SIGKILL).context("cannot tie our life to our parent's")?;
    Ok(awaited)
}

/// Starts the child, hands signals on to it, and ends as it ends.
fn accompany(awaited: &SigSet, child: &mut Command) -> Result<ExitCode> {
    let mut child = child.spawn().context("cannot start the inner copy")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match awaited.wait().context("cannot wait for signals")? {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait()? {
                    return Ok(exit_code(status));
                }
            }
            // It fails only when the child is gone, of which SIGCHLD tells next.
            signal => drop(kill(pid, signal)),
        }
    }
}

fn inner(program: &[OsString]) -> Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot make mounts private")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), safe, None::<&str>).context("cannot mount /proc")?;
    become_program(program).map(|never| match never {})
}

fn become_program(program: &[OsString]) -> Result<Infallible> {
    set_pdeathsig(Signal::SIGKILL).context("cannot tie our life to our parent's")?;
    SigSet::all()
        .thread_unblock()
        .context("cannot unblock signals")?;
    let Some((program, arguments)) = program.split_first() else {
        bail!("no program to run")
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}

/// The status as a shell would give it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let number = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    number
        .and_then(|number| u8::try_from(number).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The number that process 1 of a namespace has outside of it; `outer` is that of the command's own process.
pub fn process_one(outer: u32) -> Result<u32> {
    let path = format!("/proc/{outer}/task/{outer}/children");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text
        .split_whitespace()
        .next()
        .with_context(|| format!("{path} is empty: process 1 is gone"))?;
    first
        .parse()
        .with_context(|| format!("{path} holds {first}"))
}

/// The number that a process has in its own PID namespace.
pub fn number_inside(outside: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{outside}/status"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("NSpid:")?
                .split_whitespace()
                .last()?
                .parse()
                .ok()
        })
        .context("its status tells no NSpid")
}
