//! A container as its runtime and the kubelet leave it: a control group by its id, a mount and a control group
//! namespace, and a file for its last words out of a folder with its name.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize};

use crate::pod::Place;
use crate::process::until;

/// An agent begins meanwhile.
const LONG: Duration = Duration::from_mins(2);
const ENTER: &str = "__kernelseal-container";
const CGROUPS: &str = "/sys/fs/cgroup";
/// What each control group has.
const PROCESSES: &str = "cgroup.procs";
/// The kubelet's folder of pods.
const PODS: &str = "/var/lib/kubelet/pods";
/// Where containers see the file for their last words.
const LAST_WORDS: &str = "/termination-log";

/// A container of a pod.
#[derive(Debug)]
pub struct Container {
    cgroup: PathBuf,
    /// What its runtime gives it as its root; without, the machine's.
    root: Option<PathBuf>,
    last_words: PathBuf,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
}

impl Container {
    /// One of a pod with this uid, which the kubelet's driver `cgroupfs` puts among the burstable.
    pub fn new(pod: &str, name: &str, number: u8) -> Result<Self> {
        let id = format!("{number:02x}").repeat(32);
        let cgroup = Path::new("/kubepods/burstable")
            .join(format!("pod{pod}"))
            .join(&id);
        for hierarchy in hierarchies()? {
            fs::create_dir_all(hierarchy.join(cgroup.strip_prefix("/")?))?;
        }
        let folder = Path::new(PODS).join(pod).join("containers").join(name);
        fs::create_dir_all(&folder)?;
        let last_words = folder.join("5eed");
        fs::write(&last_words, "")?;
        // (a root that is read-only has it)
        if !Path::new(LAST_WORDS).exists() {
            fs::write(LAST_WORDS, "")?;
        }
        Ok(Self {
            cgroup,
            root: None,
            last_words,
            id,
        })
    }

    /// The same with a root of its own, which is mounted there.
    #[must_use]
    pub fn rooted(mut self, root: &Path) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    /// Its control group, from the machine's root.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that its runtime starts in it, a pod's process.
    pub fn command(&self, pod: &Place, program: impl AsRef<OsStr>) -> Result<Command> {
        self.command_after(pod, &[], program)
    }

    /// The same, after somebody in it has done these things.
    pub fn command_after(
        &self,
        pod: &Place,
        deeds: &[Deed<'_>],
        program: impl AsRef<OsStr>,
    ) -> Result<Command> {
        let mut command = pod.command(env::current_exe()?)?;
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        command
            .arg(ENTER)
            .arg(&self.cgroup)
            .arg(&self.last_words)
            .arg(root)
            .arg(serde_json::to_string(deeds)?)
            .arg(program);
        Ok(command)
    }
}

/// What somebody who has all capabilities does in a container.
#[derive(Debug, Serialize, Deserialize)]
pub enum Deed<'a> {
    /// Mounts a file system of that kind, there, with these options.
    Mount(&'a str, &'a Path, &'a str),
    /// Mounts what is at one place at another.
    Bind(&'a Path, &'a Path),
    /// Copies a file.
    Copy(&'a Path, &'a Path),
    /// Enters a user namespace of its own, and a mount namespace of that.
    UserNamespace,
    /// Waits until a file is there.
    Await(&'a Path),
    /// Makes a folder the root of its mount namespace.
    Pivot(&'a Path),
    /// Makes a folder its own root.
    Chroot(&'a Path),
}

impl Deed<'_> {
    fn do_it(&self) -> Result<()> {
        match self {
            Self::Mount(kind, at, options) => {
                mount(
                    Some(*kind),
                    *at,
                    Some(*kind),
                    MsFlags::empty(),
                    Some(*options),
                )?;
            }
            Self::Bind(from, to) => {
                mount(
                    Some(*from),
                    *to,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
            }
            Self::Copy(from, to) => {
                fs::copy(from, to)?;
            }
            Self::UserNamespace => {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            }
            Self::Await(file) => until("what is waited for is there", LONG, || file.exists())?,
            Self::Pivot(folder) => make_root(folder)?,
            Self::Chroot(folder) => {
                chroot(*folder)?;
                chdir("/")?;
            }
        }
        Ok(())
    }
}

/// As a runtime does where there is nothing to pivot: the machine's root is its first file system.
fn make_root(folder: &Path) -> Result<()> {
    chdir(folder)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// Where the hierarchies of control groups are in which a runtime gives containers a group: the unified one; on a machine of
/// version 1 all of that, and on a hybrid one the unified one, too. (What `cpuset` must be told first of a new group is no
/// matter here: nobody could join it.)
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(CGROUPS);
    if root.join(PROCESSES).exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let place = entry?.path();
        if place.join(PROCESSES).exists() && !place.ends_with("cpuset") {
            found.push(place);
        }
    }
    Ok(found)
}

/// Enters a container, when that is what this process is for.
#[must_use]
pub fn intercept() -> Option<ExitCode> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [role, rest @ ..] = arguments.as_slice() else {
        return None;
    };
    (role == ENTER).then(|| {
        let Err(error) = enter(rest);
        eprintln!("container: {error:#}");
        ExitCode::FAILURE
    })
}

fn enter(arguments: &[OsString]) -> Result<Infallible> {
    let [cgroup, last_words, root, deeds, program, rest @ ..] = arguments else {
        anyhow::bail!("it lacks arguments");
    };
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(Path::new(cgroup).strip_prefix("/")?);
        fs::write(cgroup.join(PROCESSES), "0")
            .with_context(|| format!("cannot join {}", cgroup.display()))?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let source = Some(Path::new(last_words));
    let root = Path::new(root);
    mount(
        source,
        &root.join(LAST_WORDS.trim_start_matches('/')),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("cannot mount its last words")?;
    if root != Path::new("/") {
        make_root(root).context("cannot take its root")?;
    }
    let deeds = deeds.to_str().context("deeds that are no text")?;
    for deed in serde_json::from_str::<Vec<Deed<'_>>>(deeds)? {
        deed.do_it().with_context(|| format!("{deed:?}"))?;
    }
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| program.to_string_lossy().into_owned())
}
