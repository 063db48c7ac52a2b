//! Whether the guard works: hooks are made to run, and counted. That programs are attached says little: with `bpf` not
//! among the kernel's security modules, or with ftrace switched off, they are, and never run.

use std::{fs, io, thread};

use aya::maps::{Array, MapData};
use nix::{
    errno::Errno,
    libc,
    sched::{sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::kill,
    },
    unistd::Pid,
};
use rustix::{
    fs::inotify,
    mount::mount_bind,
    process::{getpriority_process, setpriority_process},
};
use sidecar_common::proof::{ANSWER, COMMAND, Proof};

use super::{
    Error,
    contract::pinned,
    lockdown::{Locked, is_confidential},
    maps::{Pinned, failed},
    pins,
};

/// The active security modules.
pub(crate) const LSM_LIST: &str = "/sys/kernel/security/lsm";
const FTRACE_ENABLED: &str = "/proc/sys/kernel/ftrace_enabled";
const BOOT_LINE: &str = "/proc/cmdline";

/// Why hooks do not run, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cause {
    /// `bpf` is not among the active security modules.
    #[error(
        "bpf is not among the active security modules ({active}). Boot with `lsm={active},bpf` on the kernel's command line"
    )]
    NotInLsm {
        /// Those that are.
        active: String,
    },
    /// The command line of this boot leaves `bpf` out.
    #[error(
        "the kernel was booted with `lsm={given}`, which leaves bpf out. Boot with `lsm={given},bpf`"
    )]
    NotInBootLine {
        /// What it says.
        given: String,
    },
    /// ftrace is off.
    #[error(
        "ftrace is switched off, and security programs hang on it. Switch it on, on the node: `sysctl kernel.ftrace_enabled=1`; then find out who switched it off"
    )]
    FtraceOff,
    /// Programs may not read the kernel's memory.
    #[error("{0}")]
    Locked(Locked),
    /// A pin or a link of a hook is gone.
    #[error("{0}")]
    LinkGone(String),
    /// The guard could not be looked at. It counts as lost: a guard is what is proved.
    #[error("it could not be checked: {0}")]
    Unchecked(String),
    /// Some hooks run and others do not.
    #[error(
        "of the hooks, these do not run: {0}. Please report the kernel's version (`uname -r`) and `kernelseal check`"
    )]
    Silent(String),
    /// None is known.
    #[error(
        "hooks are attached and do not run, and nothing says why. Please report the kernel's version (`uname -r`) and what {LSM_LIST} says"
    )]
    Unknown,
}

impl Cause {
    /// Looks for it, where hooks do not run.
    fn find() -> Self {
        if is_zero(FTRACE_ENABLED) {
            return Self::FtraceOff;
        }
        if let Ok(active) = fs::read_to_string(LSM_LIST) {
            let active = active.trim();
            if !names_bpf(active) {
                return Self::NotInLsm {
                    active: active.to_owned(),
                };
            }
        } else if let Some(given) = boot_lsm().filter(|given| !names_bpf(given)) {
            return Self::NotInBootLine { given };
        }
        if is_confidential() {
            return Self::Locked(Locked::Lockdown);
        }
        Self::Unknown
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        match error {
            Error::Lack { .. } => Self::Unchecked(error.to_string()),
            gone => Self::LinkGone(gone.to_string()),
        }
    }
}

/// Whether a list of security modules has `bpf`.
pub(crate) fn names_bpf(list: &str) -> bool {
    list.trim().split(',').any(|name| name == "bpf")
}

fn is_zero(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
}

/// The security modules that the kernel's command line names, if it does.
pub(crate) fn boot_lsm() -> Option<String> {
    let line = fs::read_to_string(BOOT_LINE).ok()?;
    // (the last one counts)
    let mut given = line.split_whitespace().rev();
    let given = given.find_map(|word| word.strip_prefix("lsm="));
    given.map(str::to_owned)
}

/// What the hook of bpf(2) answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It runs.
    Fires,
    /// It does not: the kernel itself answered.
    Silent,
    /// Somebody else answered before it: seccomp, another security module.
    Unknown,
}

/// Asks it. The cheapest proof that hooks run, for anybody, agent or not.
pub(crate) fn ask() -> Answer {
    // SAFETY: a command that no kernel has, about no memory (`COMMAND`, a null pointer of length 0).
    let answer = unsafe { libc::syscall(libc::SYS_bpf, COMMAND, std::ptr::null::<u8>(), 0) };
    match Errno::result(answer).map_err(|errno| errno as i64) {
        Err(ANSWER) => Answer::Fires,
        Err(errno) if errno == Errno::EINVAL as i64 => Answer::Silent,
        _ => Answer::Unknown,
    }
}

/// An error where hooks that are attached do not run.
pub(crate) fn ensure_fires() -> Result<(), Error> {
    match ask() {
        Answer::Silent => Err(Error::Silent(Cause::find())),
        Answer::Fires | Answer::Unknown => Ok(()),
    }
}

/// The self-test of an agent that is enlisted.
pub(crate) struct SelfTest {
    fired: Array<MapData, u64>,
}

impl SelfTest {
    /// Opens what hooks count in.
    pub(crate) fn open() -> Result<Self, Error> {
        let fired = Pinned(&pins::dir()).array(&pinned::FIRED)?;
        Ok(Self { fired })
    }

    /// Makes hooks run, looks whether they did, and whether every pin and link is there. `helper` is a process of this
    /// agent's.
    pub(crate) fn run(&self, helper: u32) -> Result<(), Cause> {
        // (first: it is the cause of hooks that are silent, and the one that the node's root can do something about)
        pins::ensure_complete()?;
        if ask() == Answer::Silent {
            return Err(Cause::find());
        }
        let mut silent = Vec::new();
        let mut has_run = false;
        for proof in Proof::ALL {
            let before = self.count(*proof)?;
            let done = provoke(*proof, helper);
            match (self.count(*proof)? != before, done) {
                (true, _) => has_run = true,
                (false, Ok(())) => silent.push(proof.hook()),
                // (seccomp, another security module, want of descriptors: what was not done says nothing of the hook)
                (false, Err(e)) => tracing::debug!(hook = proof.hook(), "not made to run: {e}"),
            }
        }
        if !has_run {
            return Err(Cause::find());
        }
        if silent.is_empty() {
            Ok(())
        } else {
            Err(Cause::Silent(silent.join(", ")))
        }
    }

    fn count(&self, proof: Proof) -> Result<u64, Cause> {
        let index = proof as u32;
        let count = self.fired.get(&index, 0);
        count.map_err(|e| failed(pinned::FIRED.name)(e).into())
    }
}

/// Does what makes a hook run, and changes nothing.
fn provoke(proof: Proof, helper: u32) -> io::Result<()> {
    match proof {
        Proof::FileOpen => fs::File::open("/proc/self/environ").map(drop),
        Proof::FilePermission => {
            const COMM: &str = "/proc/thread-self/comm";
            // (the line that is read ends; a name does not)
            fs::write(COMM, fs::read(COMM)?.trim_ascii_end())
        }
        Proof::PtraceAccess => fs::read_link(format!("/proc/{helper}/exe")).map(drop),
        Proof::TaskKill => Ok(kill(Pid::this(), None)?),
        Proof::TaskSetrlimit => {
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)
        }
        Proof::TaskSetnice => {
            in_a_thread(|| Ok(setpriority_process(None, getpriority_process(None)?)?))
        }
        Proof::TaskSetscheduler => in_a_thread(|| {
            let own = Pid::from_raw(0);
            Ok(sched_setaffinity(own, &sched_getaffinity(own)?)?)
        }),
        Proof::TaskAlloc => in_a_thread(|| Ok(())),
        Proof::PathNotify => {
            let listener = inotify::init(inotify::CreateFlags::CLOEXEC)?;
            inotify::add_watch(&listener, "/", inotify::WatchFlags::MOVE_SELF)?;
            Ok(())
        }
        // (which the kernel refuses after it has asked us)
        Proof::Mount => match mount_bind("", "/") {
            Err(rustix::io::Errno::INVAL) => Ok(()),
            done => Ok(done?),
        },
    }
}

/// What is done to a thread that ends with it stays without consequence.
fn in_a_thread(deed: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    const STACK: usize = 64 * 1024;
    let thread = thread::Builder::new()
        .name("self-test".into())
        .stack_size(STACK)
        .spawn(deed)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_bpf_part_of_a_name_is_not_it() {
        assert!(names_bpf("lockdown,capability,bpf\n"));
        assert!(!names_bpf("lockdown,capability,bpfilter"));
        assert!(!names_bpf(""));
    }
}
