//! Records in a scope's ring: what the kernel side tells the agent.

use bytemuck::{Pod, Zeroable};

use crate::layout::{COMM_LEN, NAME_LEN};

/// What a record is about; the first field of each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// `KIND_*`
    pub kind: u32,
    /// The process it is about, in the kernel's own numbers.
    pub tgid: u32,
    /// Monotonic clock, in nanoseconds.
    pub time_ns: u64,
}

/// A program is held: [`Header`] only; the rest is in the map of held programs, so that nothing is
/// lost with a lost record.
pub const KIND_HELD: u32 = 1;
/// An access to something sealed: [`Access`].
pub const KIND_ACCESS: u32 = 2;
/// A sealed process or tree ended: [`Exit`].
pub const KIND_EXIT: u32 = 3;
/// A program was started: [`Exec`]. Only with [`crate::policy::ScopeFlags::ALL_EXECS`].
pub const KIND_EXEC: u32 = 4;
/// The kernel side refused a program: [`Exec`].
pub const KIND_REFUSED: u32 = 5;

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
    /// `WHAT_*`
    pub what: u32,
    /// `VERDICT_*`
    pub verdict: u32,
    /// The file's name in procfs or in the secret directory; empty for an attach.
    pub name: [u8; COMM_LEN],
}

/// `/proc/<pid>/environ`
pub const WHAT_ENVIRON: u32 = 1;
/// `/proc/<pid>/mem` and what else shows memory or descriptors
pub const WHAT_MEM: u32 = 2;
/// `/proc/<pid>/maps` and its kin
pub const WHAT_MAPS: u32 = 3;
/// ptrace and other forms of attaching
pub const WHAT_PTRACE: u32 = 4;
/// A secret file
pub const WHAT_FILE: u32 = 5;
/// `process_vm_readv`, `process_vm_writev`
pub const WHAT_PROCESS_VM: u32 = 6;
/// What [`Access::name`] says
pub const WHAT_NAMED: u32 = 7;

/// Refused.
pub const VERDICT_BLOCKED: u32 = 1;
/// Allowed, though the policy would refuse it in enforce mode.
pub const VERDICT_AUDIT: u32 = 2;
/// Allowed by the policy, and logged because it says so.
pub const VERDICT_ALLOWED: u32 = 3;

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
    /// `EXIT_*` bits.
    pub flags: u32,
    /// The wait status, as `wait` gives it.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Its `comm`, NUL-padded: all the name an agent has that did not seal it itself.
    pub comm: [u8; COMM_LEN],
}

/// The process the seal was given to is gone.
pub const EXIT_ROOT: u32 = 1 << 0;
/// Nobody carries the seal any more.
pub const EXIT_LAST: u32 = 1 << 1;

/// A program start.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Exec {
    /// Who.
    pub header: Header,
    /// Who, for the agent.
    pub subject: Subject,
    /// `REASON_*`, for [`KIND_REFUSED`].
    pub reason: u32,
    /// Bytes of `name`.
    pub name_len: u32,
    /// Base name of the path that was asked for.
    pub name: [u8; NAME_LEN],
}

/// The map of sealed processes is full.
pub const REASON_SEALED_FULL: u32 = 1;
/// The map of held programs is full, or a signal could not be sent.
pub const REASON_HELD_FULL: u32 = 2;
/// A sealed process forked and the child could not be sealed: the parent was killed.
pub const REASON_FORK_UNSEALED: u32 = 3;
/// The file that runs is not the one that was asked for, and no interpreter either.
pub const REASON_OTHER_FILE: u32 = 4;
/// The agent ended during the exec.
pub const REASON_NO_AGENT: u32 = 5;
/// A sealed process may not fork: its child might not be sealed.
pub const REASON_NO_FORK: u32 = 6;
/// What was noted of a program's exec was gone when the exec completed: too many others had begun meanwhile, and failed.
pub const REASON_NOTE_LOST: u32 = 7;
/// The hook that holds a program before its exec did not run: hooks are switched off.
pub const REASON_HOOK_SILENT: u32 = 8;
