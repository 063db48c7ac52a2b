//! The one who stays when the agent is killed: a process of its own that ends, by the policy, what the
//! agent held. Nobody else could: in the kernel a program signals only the task that runs, and one that
//! is stopped does not.
//!
//! It knows of the agent's end from the kernel, by a descriptor of the agent's process (pidfd). Not by a
//! pipe between the two: root next to them can open that through `/proc/PID/fd` and keep it open.

use std::{
    env, io,
    os::{
        fd::AsFd as _,
        unix::process::{CommandExt as _, parent_id},
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, SigmaskHow, Signal},
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sidecar_common::policy::ScopeFlags;

use crate::{
    config::OnFailure,
    kernel::{Maps, own_scope, pins},
    limits,
    observe::{Journal, Metrics, NODE_NAME},
    seal::{GivenUp, Turns, Watchdog},
};

/// How long to look again: a program that was in its exec when the agent died is held a little later.
const LOOKS: u32 = 500;
/// From look to look. A program that is held more shortly may not have come to its stop.
const STEP: Duration = Duration::from_millis(2);

/// An agent's guardian, as the agent sees it.
pub(crate) struct Guardian {
    audit_log: Option<PathBuf>,
    child: Child,
}

impl Guardian {
    /// Starts it. As a child of an agent it is guarded like one.
    pub(crate) fn start(audit_log: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            audit_log: audit_log.map(Path::to_owned),
            child: spawn(audit_log).context("start the guardian")?,
        })
    }

    /// Its number, in our PID namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts another if it is gone.
    pub(crate) fn renew(&mut self) {
        let Ok(Some(status)) = self.child.try_wait() else {
            return;
        };
        tracing::warn!("the guardian ended: {status}; starting another");
        match spawn(self.audit_log.as_deref()) {
            Ok(child) => self.child = child,
            Err(e) => tracing::error!("cannot start another guardian: {e}"),
        }
    }

    /// Lets it go: there is nothing left to do for it.
    pub(crate) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(audit_log: Option<&Path>) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("guardian")
        .arg(process::id().to_string())
        .args(audit_log)
        // the agent's variables may hold secrets
        .env_clear()
        .envs(env::var_os(NODE_NAME).map(|name| (NODE_NAME, name)))
        // what is typed at a terminal is for the agent
        .process_group(0)
        .stdin(Stdio::null());
    // It goes when its agent lets it go, or soon after. What is meant for all of a service's processes would end it too
    // early; and the kernel hangs up on a process that is stopped when its parent ends. (A child inherits what is blocked.)
    let blocked = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];
    let blocked: SigSet = blocked.into_iter().collect();
    let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let child = command.spawn();
    before.thread_set_mask()?;
    let child = child?;
    limits::restore(&child);
    Ok(child)
}

/// `kernelseal guardian`: waits for the end of the agent that started it.
pub(crate) fn run(agent: u32, audit_log: Option<&Path>) -> anyhow::Result<()> {
    let maps = Maps::open()?;
    let scope = own_scope()?;
    wait_for_end_of(agent).context("wait for the agent's end")?;
    let metrics = Metrics::new()?;
    let (journal, writer) = Journal::start(audit_log, metrics.events_dropped.clone())?;
    let mut watchdog = Watchdog {
        maps,
        scope,
        journal,
        metrics,
        on_failure: OnFailure::Deny,
        hold_timeout: STEP,
        given_up: GivenUp::default(),
        turns: Turns::new(1),
        config: None,
    };
    for _ in 0..LOOKS {
        // While we have the lock no other agent begins, and from then on it is that one's business.
        let lock = pins::lock()?;
        watchdog.maps.end_agent(scope, agent)?;
        match watchdog.maps.scope(scope) {
            Some(scope) if scope.agent == 0 => {
                if scope.flags.contains(ScopeFlags::FAIL_OPEN) {
                    watchdog.on_failure = OnFailure::Allow;
                }
            }
            _ => break,
        }
        watchdog.succeed_agent();
        drop(lock);
        thread::sleep(STEP);
    }
    drop(watchdog);
    writer.finish();
    Ok(())
}

/// Waits until our parent, which has this number, ends.
fn wait_for_end_of(parent: u32) -> io::Result<()> {
    let pid = Pid::from_raw(parent.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty());
    // While it is our parent its number is its own.
    if parent_id() != parent {
        return Ok(());
    }
    let process = process?;
    loop {
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
