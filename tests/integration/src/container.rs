//! A container as its runtime and the kubelet leave it: a control group by its id, a mount and a control group
//! namespace, and a file for its last words out of a folder with its name.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::pod::Place;

const ENTER: &str = "__kernelseal-container";
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kubelet's folder of pods.
const PODS: &str = "/var/lib/kubelet/pods";
/// Where containers see the file for their last words.
const LAST_WORDS: &str = "/termination-log";

/// A container of a pod.
#[derive(Debug)]
pub struct Container {
    cgroup: PathBuf,
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
        fs::create_dir_all(Path::new(CGROUPS).join(cgroup.strip_prefix("/")?))?;
        let folder = Path::new(PODS).join(pod).join("containers").join(name);
        fs::create_dir_all(&folder)?;
        let last_words = folder.join("5eed");
        fs::write(&last_words, "")?;
        fs::write(LAST_WORDS, "")?;
        Ok(Self {
            cgroup,
            last_words,
            id,
        })
    }

    /// Its control group, from the machine's root.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that its runtime starts in it, a pod's process.
    pub fn command(&self, pod: &Place, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = pod.command(env::current_exe()?)?;
        command
            .arg(ENTER)
            .arg(&self.cgroup)
            .arg(&self.last_words)
            .arg(program);
        Ok(command)
    }
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
    let [cgroup, last_words, program, rest @ ..] = arguments else {
        anyhow::bail!("it lacks arguments");
    };
    let cgroup = Path::new(CGROUPS).join(Path::new(cgroup).strip_prefix("/")?);
    fs::write(cgroup.join("cgroup.procs"), "0").context("cannot join its control group")?;
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).context("unshare")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let source = Some(Path::new(last_words));
    mount(
        source,
        LAST_WORDS,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("cannot mount its last words")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| program.to_string_lossy().into_owned())
}
