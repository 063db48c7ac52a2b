//! The only user-space code that knows aya: the shared kernel side, and one agent's share of it.

mod attach_ids;
mod cgroup_paths;
mod contract;
pub(crate) mod fields;
mod lease;
mod libraries;
mod load;
mod lockdown;
mod maps;
mod network;
mod offsets;
mod own_objects;
mod parts;
pub(crate) mod pins;
mod prog_run;
mod registry;
mod relocate;
mod ring;
mod self_test;
mod syscalls;
pub(crate) mod version;

use std::{io, path::PathBuf};

use crate::{limits, util::io_cause};

pub(crate) use cgroup_paths::path_of;
pub(crate) use lease::{ScopeLease, ScopeRequest, ensure_free, hand_over, own_scope};
pub(crate) use load::load;
pub(crate) use lockdown::{LOCKDOWN, Locked, is_confidential};
pub(crate) use maps::Maps;
pub(crate) use network::{Network, NetworkRecord, NetworkRequest, NetworkRing};
pub(crate) use offsets::VMLINUX_BTF;
pub(crate) use prog_run::own_cgroup;
pub(crate) use ring::{Record, Ring};
pub(crate) use self_test::{
    Answer, Cause, LSM_LIST, SelfTest, ask as ask_hook, boot_lsm, ensure_fires, names_bpf,
};
pub(crate) use syscalls::{How, SyscallRecord, SyscallRing, Syscalls, SyscallsRequest};

/// What can go wrong between us and the kernel, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The kernel was built without a description of its types.
    #[error("{path} is missing: this kernel was built without CONFIG_DEBUG_INFO_BTF. Use a kernel with BTF (every current distribution's has it)", path = VMLINUX_BTF)]
    NoBtf,
    /// A type or field is not where it should be.
    #[error(
        "cannot use this kernel's type information: {what}: {cause}. Please report the kernel's version (`uname -r`)"
    )]
    Btf {
        /// A structure, a field, or the file.
        what: String,
        /// Why.
        cause: String,
    },
    /// The kernel refused a program, a map or an attachment.
    #[error("the kernel refused {what}: {cause}")]
    Load {
        /// Which.
        what: String,
        /// What it said.
        cause: String,
    },
    /// The kernel refuses what a guard is made of, and why is known.
    #[error("this kernel cannot have a guard: {0}")]
    Unfit(Cause),
    /// Programs are attached and do not run.
    #[error("the guard does not work: its hooks are attached and do not run: {0}")]
    Silent(Cause),
    /// A monitor's programs could not be loaded or attached.
    #[error(
        "monitoring.{monitor}: {what}: {cause}. It needs a kernel with kprobes (CONFIG_KPROBES), CONFIG_SECURITY_NETWORK for connections, and CAP_SYS_ADMIN (or CAP_BPF and CAP_PERFMON); to do without, set monitoring.{monitor}.enabled to false"
    )]
    Monitor {
        /// Its key below `monitoring`.
        monitor: &'static str,
        /// Which, or what it needs.
        what: String,
        /// Why.
        cause: String,
    },
    /// The kernel's stack is not laid out as we know it.
    #[error(
        "cannot find the system call's number on this kernel's stack. Please report the kernel's version (`uname -r`)"
    )]
    NoSyscallSlot,
    /// No BPF file system.
    #[error(
        "/sys/fs/bpf is not a BPF file system. Mount it: `mount -t bpf bpf /sys/fs/bpf`; in a container, mount the host's /sys/fs/bpf there"
    )]
    NoBpfFs,
    /// The pins could not be made or read.
    #[error("{path}: {cause}", path = path.display())]
    Pins {
        /// Which directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Part of the pinned kernel side is missing.
    #[error("the pinned kernel side is incomplete: {path}: {cause}. Run `kernelseal cleanup --force`, and start again", path = path.display())]
    Incomplete {
        /// What is missing.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A map could not be opened, read or written.
    #[error("map {name}: {cause}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        cause: String,
    },
    /// There were no descriptors or no memory: whether anything is wrong is not known.
    #[error(
        "{what}: {cause}: the agent is short of descriptors or memory. Give it more (`ulimit -n`, the container's memory limit)"
    )]
    Lack {
        /// What was being opened, read or written.
        what: String,
        /// Why not.
        cause: io::Error,
    },
    /// Somebody else answers for this PID namespace.
    #[error(
        "this PID namespace (pid:[{scope}]) already has an agent: process {pid}. Stop it first, or give this one a PID namespace of its own"
    )]
    ScopeTaken {
        /// The namespace's inode number.
        scope: u32,
        /// The other agent, in that namespace's numbers.
        pid: u32,
    },
    /// Reading our own namespace failed.
    #[error("/proc/self/ns/pid: {0}. Is /proc mounted?")]
    Namespace(io::Error),
    /// The kernel side would not make us the agent.
    #[error(
        "the kernel side did not accept this agent: the map of sealed processes or of scopes is full"
    )]
    NotEnlisted,
}

impl Error {
    /// [`Error::Lack`], where an error comes from that.
    fn lack(what: String, error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let cause = io_cause(error).filter(|cause| limits::is_for_lack(cause))?;
        let cause = limits::same(cause);
        Some(Self::Lack { what, cause })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Lack { cause, .. } => cause,
            other => Self::other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn lack_is_told_from_what_is_wrong_wherever_an_error_goes() {
        let open = |errno: Errno| maps::failed("HELD")(io::Error::from(errno));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(matches!(open(errno), Error::Lack { .. }), "{errno}");
            assert!(matches!(open(errno).into(), Cause::Unchecked(_)), "{errno}");
            assert!(limits::is_for_lack(&open(errno).into()), "{errno}");
        }
        assert!(matches!(open(Errno::NOENT), Error::Map { .. }));
        assert!(matches!(open(Errno::NOENT).into(), Cause::LinkGone(_)));
        assert!(!limits::is_for_lack(&open(Errno::NOENT).into()));
    }
}
