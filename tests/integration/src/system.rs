//! Another system's root on a disk of the guest's, and commands that run in it as in a container.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};

/// What of the machine is also in there.
const SHARED: [&str; 3] = ["proc", "sys", "dev"];
/// File systems of its own, with their modes.
const FRESH: [(&str, u32); 2] = [("run", 0o755), ("tmp", 0o1777)];
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin";

/// The root of a disk: where the variable says, or where guests have it. It must have that program.
pub fn disk(variable: &str, usual: &str, program: &str, fetched_by: &str) -> Result<PathBuf> {
    let root = env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from);
    ensure!(
        root.join(program).is_file(),
        "there is no {program} in {}; run `{fetched_by}`, which fetches the disk and gives it to the guest",
        root.display()
    );
    Ok(root)
}

/// A command that runs a program of that system as root. It has the system's root for its own and a mount
/// namespace, as in a container, and else shares all with the machine.
pub fn command(root: &Path, program: impl AsRef<OsStr>) -> Result<Command> {
    prepare(root)?;
    let root = root.to_owned();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .env("TERM", "dumb");
    // SAFETY: system calls alone, of paths that are short enough to be copied to the stack.
    unsafe {
        command.pre_exec(move || Ok(enter(&root)?));
    }
    Ok(command)
}

/// Makes the folder this process's root. Not by chroot alone: who is in such a place may make no user namespace.
fn enter(root: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the machine mounts in there later arrives, as a node's volumes do; nothing goes the other way.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")
}

/// Mounts what the system needs, once.
pub fn prepare(root: &Path) -> Result<()> {
    if root.join("proc/self").exists() {
        return Ok(());
    }
    for (name, mode) in FRESH {
        let place = root.join(name);
        mount(
            Some("tmpfs"),
            &place,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {}", place.display()))?;
        fs::set_permissions(&place, Permissions::from_mode(mode))?;
    }
    for name in SHARED {
        let (machine, place) = (Path::new("/").join(name), root.join(name));
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&machine), &place, None::<&str>, bind, None::<&str>)
            .with_context(|| format!("cannot mount {}", place.display()))?;
    }
    // What an ordinary machine has in /dev besides its devices.
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1")] {
        let (link, target) = (
            root.join("dev").join(name),
            Path::new("/proc/self").join(target),
        );
        if !link.is_symlink() {
            symlink(&target, &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    ensure!(root.join("proc/self").exists(), "no /proc in there");
    Ok(())
}
