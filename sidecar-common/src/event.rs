//! Records in a scope's ring: what the kernel side tells the agent.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};
use num_enum::TryFromPrimitive;

use crate::layout::{COMM_LEN, NAME_LEN};

/// What a record is about; the first field of each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// The number of a `RecordKind`: the guards' or a monitor's.
    pub kind: u32,
    /// The process it is about, in the kernel's own numbers.
    pub tgid: u32,
    /// Monotonic clock, in nanoseconds.
    pub time_ns: u64,
}

/// What a record of the guards is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum RecordKind {
    /// A program is held: [`Header`] only; the rest is in the map of held programs, so that nothing is
    /// lost with a lost record.
    Held = 1,
    /// An access to something sealed: [`Access`].
    Access = 2,
    /// A sealed process or tree ended: [`Exit`].
    Exit = 3,
    /// A program was started: [`Exec`]. Only with [`crate::policy::ScopeFlags::ALL_EXECS`].
    Exec = 4,
    /// The kernel side refused a program: [`Exec`].
    Refused = 5,
}

/// A process as the agent can name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Subject {
    /// Its number in the agent's PID namespace; 0 when it is outside of it.
    pub pid: u32,
    /// Its real user, in the initial user namespace.
    pub uid: u32,
    /// Its cgroup, as its inode number in cgroup2; 0 where unknown.
    pub cgroup: u64,
    /// Its `comm`, NUL-padded.
    pub comm: [u8; COMM_LEN],
}

/// Somebody reached for a sealed process or its files.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Access {
    /// `tgid` is the target; for files, 0.
    pub header: Header,
    /// Who reached.
    pub actor: Subject,
    /// For what.
    pub target: Subject,
    /// The target's seal.
    pub seal: u64,
    /// The number of an [`AccessKind`].
    pub what: u32,
    /// The number of a [`Verdict`].
    pub verdict: u32,
    /// The file's name in procfs or in the secret directory; empty for an attach.
    pub name: [u8; COMM_LEN],
}

/// What was reached for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum AccessKind {
    /// `/proc/<pid>/environ`
    Environ = 1,
    /// `/proc/<pid>/mem` and what else shows memory or descriptors
    Mem = 2,
    /// `/proc/<pid>/maps` and its kin
    Maps = 3,
    /// ptrace and other forms of attaching
    Ptrace = 4,
    /// A secret file
    SecretFile = 5,
    /// `process_vm_readv`, `process_vm_writev`
    ProcessVm = 6,
    /// What [`Access::name`] says
    Named = 7,
}

/// What became of an access.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum Verdict {
    /// Refused.
    Blocked = 1,
    /// Allowed, though the policy would refuse it in enforce mode.
    Audit = 2,
    /// Allowed by the policy, and logged because it says so.
    Allowed = 3,
}

/// The end of a sealed process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Exit {
    /// Who.
    pub header: Header,
    /// Its seal.
    pub seal: u64,
    /// Its number in the agent's PID namespace.
    pub pid: u32,
    /// What ended with it.
    pub flags: ExitFlags,
    /// The wait status, as `wait` gives it.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Its `comm`, NUL-padded: all the name an agent has that did not seal it itself.
    pub comm: [u8; COMM_LEN],
}

bitflags! {
    /// What ended with a sealed process.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct ExitFlags: u32 {
        /// The process the seal was given to is gone.
        const ROOT = 1 << 0;
        /// Nobody carries the seal any more.
        const LAST = 1 << 1;
    }
}

/// A program start.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Exec {
    /// Who.
    pub header: Header,
    /// Who, for the agent.
    pub subject: Subject,
    /// The number of a [`RefusalReason`], of [`RecordKind::Refused`]; else 0.
    pub reason: u32,
    /// Bytes of `name`.
    pub name_len: u32,
    /// Base name of the path that was asked for.
    pub name: [u8; NAME_LEN],
}

/// Why the kernel side refused a program.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum RefusalReason {
    /// The map of sealed processes is full.
    SealedFull = 1,
    /// The map of held programs is full, or a signal could not be sent.
    HeldFull = 2,
    /// A sealed process forked and the child could not be sealed: the parent was killed.
    ForkUnsealed = 3,
    /// The file that runs is not the one that was asked for, and no interpreter either.
    OtherFile = 4,
    /// The agent ended during the exec.
    NoAgent = 5,
    /// A sealed process may not fork: its child might not be sealed.
    NoFork = 6,
    /// What was noted of a program's exec was gone when the exec completed: too many others had begun meanwhile, and failed.
    NoteLost = 7,
    /// The hook that holds a program before its exec did not run: hooks are switched off.
    HookSilent = 8,
}
