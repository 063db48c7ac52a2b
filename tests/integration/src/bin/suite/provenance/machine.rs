//! On a machine of its own: what belongs to root alone.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{asked_for_token, ensure_both, report};
use kernelseal_integration::process::{Running, spawn};
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount};

use super::{NAME, OVERLAYS_OF_USERS, SOON, refused};
use crate::machine::kernel_version;

pub(super) fn of_a_machine() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for(NAME).without("provenance"))?;
    // (below the machine's root, which is root's)
    let scratch = Scratch::within(Path::new("/opt"))?;
    let target = scratch.probe("probe-static", "bin/target")?;
    let given = |path: &Path| ensure_both(&report(&mut asked_for_token(path))?.1, "hunter2");
    given(&target).map_err(|e| e.context(format!("{:?}", agent.events(SOON))))?;
    let mut is_refused = |path: &Path, why: &str| {
        refused(&mut agent, &mut asked_for_token(path), why)
            .with_context(|| path.display().to_string())
    };
    let why = "may be written by others than root";
    fs::set_permissions(&target, Permissions::from_mode(0o775))?;
    is_refused(&target, why)?;
    fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o1777))?;
    is_refused(&target, why)?;
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
    given(&target)?;
    chown(&target, Some(1000), None)?;
    is_refused(&target, "belongs to user 1000")?;
    chown(&target, Some(0), None)?;
    chown(scratch.path(), Some(1000), None)?;
    is_refused(&target, "belongs to user 1000")?;
    chown(scratch.path(), Some(0), None)?;
    // a copy where everybody copies to
    let copies = Scratch::new()?;
    is_refused(&copies.probe("probe-static", "target")?, why)?;
    // links
    let other = scratch.probe("probe-static", "bin/other")?;
    let link = scratch.join("target");
    symlink(&other, &link)?;
    given(&link)?;
    let theirs = scratch.join("theirs");
    fs::create_dir(&theirs)?;
    chown(&theirs, Some(1000), None)?;
    symlink(&other, theirs.join("target"))?;
    is_refused(&theirs.join("target"), "the symbolic link")?;
    // a file mounted over it, in a namespace of the attacker's
    let mut bound = asked_for_token(&target);
    let (from, to) = (other.clone(), target.clone());
    // SAFETY: system calls alone.
    unsafe {
        bound.pre_exec(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            mount(
                Some(&from),
                &to,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        });
    }
    refused(&mut agent, &mut bound, "is mounted there")?;
    if kernel_version()? >= OVERLAYS_OF_USERS {
        // an overlay of a user namespace of his own, whose owners are what is below it
        let mut overlaid = overlaid(&scratch)?;
        refused(&mut agent, &mut overlaid, "user namespace of his own")?;
    }
    // by another mount namespace, where somebody else may have mounted what he likes
    let apart = sleeping_apart()?;
    let by_another = format!("/proc/{}/root{}", apart.pid(), target.display());
    refused_anyhow(&mut agent, &by_another)?;
    // what was deleted, by a descriptor that somebody kept
    let kept = File::open(&target)?;
    fs::remove_file(&target)?;
    refused_anyhow(&mut agent, &format!("/proc/self/fd/{}", kept.as_raw_fd()))
}

/// Does not start, whatever the reason: what it was reached by leads nowhere for whoever looks later.
fn refused_anyhow(agent: &mut Agent, path: &str) -> Result<()> {
    let mut probe = spawn(&mut asked_for_token(path))?;
    ensure!(probe.line(SOON).is_err(), "{path} started");
    agent.event("REFUSED", probe.pid()).map(drop)
}

/// Somebody in a mount namespace of its own, which is as ours otherwise.
fn sleeping_apart() -> Result<Running> {
    let mut command = Command::new("sleep");
    command.arg("600");
    // SAFETY: a system call alone.
    unsafe {
        command.pre_exec(|| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?));
    }
    spawn(&mut command)
}

/// A program on an overlay that it mounts itself, in a user namespace of its own.
fn overlaid(scratch: &Scratch) -> Result<Command> {
    scratch.probe("probe-static", "lower/target")?;
    let (to, second) = (scratch.join("mounted"), scratch.join("second"));
    fs::create_dir(&to)?;
    fs::create_dir(&second)?;
    let layers = format!(
        "lowerdir={}:{}",
        scratch.join("lower").display(),
        second.display()
    );
    let mut command = asked_for_token(to.join("target"));
    // SAFETY: system calls alone.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(
                nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS,
            )?;
            mount(
                Some("overlay"),
                &to,
                Some("overlay"),
                MsFlags::empty(),
                Some(layers.as_str()),
            )?;
            Ok(())
        });
    }
    Ok(command)
}
