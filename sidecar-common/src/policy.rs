//! What the maps hold: who owns a scope, which names it watches, who is sealed, what is held.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

use crate::{
    layout::{MAX_WORKERS, NAME_LEN},
    provenance::FileOrigin,
};

/// The inode number of a PID namespace (`/proc/<pid>/ns/pid`): how a scope is named in every map.
pub type ScopeId = u32;

/// A scope: the part of the node that one agent answers for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Scope {
    /// When the agent started, on the boot clock, in nanoseconds: with `agent`, which process it is.
    pub agent_start_ns: u64,
    /// When process 1 of the PID namespace started, on the boot clock, in nanoseconds. Namespaces' inode numbers are used
    /// again at once: an entry whose time is not that process's belongs to an earlier namespace of that number.
    pub init_start_ns: u64,
    /// The agent's process in the kernel's own numbers; 0 when no live agent is there. The kernel
    /// side clears it when that process exits.
    pub agent: u32,
    /// Process 1 of the PID namespace, in the kernel's own numbers.
    pub init: u32,
    /// What holds there.
    pub flags: ScopeFlags,
    /// The agent's process as it sees itself, for the message a second agent prints.
    pub agent_pid: u32,
}

bitflags! {
    /// What holds in a scope.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct ScopeFlags: u32 {
        /// Refuse (else: allow and log).
        const ENFORCE = 1 << 0;
        /// Guard `environ`.
        const BLOCK_ENVIRON = 1 << 1;
        /// Guard `mem` and `process_vm_*`.
        const BLOCK_MEM = 1 << 2;
        /// Guard `maps` and its kin.
        const BLOCK_MAPS = 1 << 3;
        /// Guard every form of attaching.
        const BLOCK_PTRACE = 1 << 4;
        /// A sealed process and its sealed tree may read themselves.
        const SELF_READ = 1 << 5;
        /// Report accesses that are allowed too.
        const AUDIT_ALL = 1 << 6;
        /// Report every exec, not only those whose name is bound.
        const ALL_EXECS = 1 << 7;
        /// What cannot be delivered starts without its secrets (else: it does not start).
        const FAIL_OPEN = 1 << 8;
        /// The scope is a pod's, and whoever lives in it is no more than the agent's neighbour: who may stop
        /// the agent and look into it started it from outside. On a machine of its own root is not kept from
        /// what is root's.
        const POD = 1 << 9;
        /// What is let through because the scope does not enforce is not reported either (`mode: disabled`).
        const DISABLED = 1 << 10;
    }
}

/// An object of ours, as the kernel numbers it: nobody but an agent gets a descriptor of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct OwnObject {
    /// The number of an [`ObjectKind`].
    pub kind: u32,
    /// Its number among those of its kind.
    pub id: u32,
}

/// What an object of bpf(2) is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A map.
    Map = 1,
    /// A program.
    Program = 2,
    /// A link.
    Link = 3,
}

/// Which ring an agent hears of a tree from: each of its delivering threads has its own. A seal's lower bits are those of the
/// number of the process that it was given to, so that all that is told of one tree is told to one thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct RingKey {
    /// The agent's.
    pub scope: ScopeId,
    /// The process's or the seal's number, in [`MAX_WORKERS`] classes.
    pub class: u32,
}

/// In how many classes trees are told of.
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const CLASSES: u32 = MAX_WORKERS as u32;

impl RingKey {
    /// Where a scope's agent hears of a process, or of a seal by its lower bits.
    #[must_use]
    #[inline(always)]
    pub const fn new(scope: ScopeId, number: u32) -> Self {
        Self {
            scope,
            class: number % CLASSES,
        }
    }

    /// Where it hears of those of which it does not hear elsewhere.
    #[must_use]
    #[inline(always)]
    pub const fn first(scope: ScopeId) -> Self {
        Self { scope, class: 0 }
    }

    /// All of a scope's, the first among them.
    pub fn all(scope: ScopeId) -> impl Iterator<Item = Self> {
        (0..CLASSES).map(move |class| Self { scope, class })
    }

    /// Which of so many workers hears of a seal, where the classes are theirs in turn.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a class is a small number")]
    pub const fn worker_of(seal: u64, workers: usize) -> usize {
        (seal % MAX_WORKERS as u64) as usize % workers
    }
}

/// A thread of an agent that makes a tmpfs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Maker {
    /// The agent's.
    pub scope: ScopeId,
    /// The thread's number as the thread itself sees it.
    pub thread: u32,
}

/// What the kernel side counts for a scope's agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counters {
    /// Records lost because the ring was full.
    pub dropped: u64,
    /// Programs held.
    pub held: u64,
}

/// A watched program name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BindingKey {
    /// [`name::hash`](crate::name::hash) of the file name.
    pub name: u64,
    /// Whose name this is.
    pub scope: ScopeId,
    /// Zero.
    reserved: u32,
}

impl BindingKey {
    /// A scope's name, by its [`name::hash`](crate::name::hash).
    #[must_use]
    pub const fn new(scope: ScopeId, name: u64) -> Self {
        Self {
            name,
            scope,
            reserved: 0,
        }
    }
}

/// A process under seal, by its number in the kernel's own namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Sealed {
    /// Names the tree: given at exec, inherited by fork. Never 0, never used twice.
    pub seal: u64,
    /// When the process's leader started, on the boot clock, in nanoseconds. An entry whose time
    /// is not the task's belongs to an earlier process of that number, and counts for nothing.
    pub start_ns: u64,
    /// Whose policy holds.
    pub scope: ScopeId,
    /// What it is.
    pub flags: SealedFlags,
}

bitflags! {
    /// What a sealed process is.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct SealedFlags: u32 {
        /// The process is an agent, or its helper: nobody reads or attaches to it.
        const AGENT = 1 << 0;
        /// The process is the one the seal was given to, not a child that inherited it.
        const ROOT = 1 << 1;
        /// The process is about to execute a watched program and has no secrets yet: it is guarded, so that
        /// nobody takes hold of the new memory between its birth and the seal proper; its children are not.
        const EXECING = 1 << 2;
        /// The seal was taken off; the kernel side removes the entry when the process ends.
        const VOID = 1 << 3;
        /// An exec of a watched program has begun, and what was found of it is noted. Where it completes and the note is
        /// gone, the program does not start.
        const NOTED = 1 << 4;
    }
}

/// A program that was stopped before its first instruction and waits for its agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Held {
    /// When, on the monotonic clock, in nanoseconds.
    pub since_ns: u64,
    /// `mm->start_stack`: the stack pointer at the first instruction. Random per exec, so it also
    /// tells this exec from any other. Before the exec ([`HeldFlags::PRE_EXEC`]): the thread that executes, as
    /// [`Held::of_thread`] has it.
    pub stack: u64,
    /// The seal given at this exec.
    pub seal: u64,
    /// When the task started, on the boot clock, in nanoseconds.
    pub start_ns: u64,
    /// The seal that the process had before this exec, 0 for none. It is a member of that tree still, and of that one
    /// alone if the program turns out to be nobody's.
    pub earlier_seal: u64,
    /// Whose policy held under the earlier seal.
    pub earlier_scope: ScopeId,
    /// What it was under the earlier seal.
    pub earlier_flags: SealedFlags,
    /// The cgroup, as its inode number in cgroup2.
    pub cgroup: u64,
    /// Inode of the file that was asked for (for a script: of the script).
    pub file_ino: u64,
    /// Device of the file that was asked for, in the kernel's encoding (`MAJOR << 20 | MINOR`).
    pub file_dev: u32,
    /// Whose program.
    pub scope: ScopeId,
    /// The process's number in the agent's PID namespace.
    pub pid: u32,
    /// The process's number in its own PID namespace.
    pub own_pid: u32,
    /// Effective user, in the initial user namespace.
    pub uid: u32,
    /// Effective group, in the initial user namespace.
    pub gid: u32,
    /// What is known of it.
    pub flags: HeldFlags,
    /// Bytes of `name`, without a NUL.
    pub name_len: u32,
    /// Base name of the path the exec was asked for, or the file's own name where that one matched.
    pub name: [u8; NAME_LEN],
}

impl Held {
    /// [`Held::stack`] of one that is coming: the thread's number in the kernel's own eyes, and in its agent's.
    #[must_use]
    pub const fn of_thread(kernels: u32, agents: u32) -> u64 {
        (kernels as u64) << 32 | agents as u64
    }

    /// The bits of `flags` that tell where what runs comes from.
    #[must_use]
    pub const fn flags_of(provenance: FileOrigin) -> HeldFlags {
        HeldFlags::from_bits_retain(provenance.bits() << HELD_PROVENANCE)
    }

    /// Where what runs comes from, as it was at its exec.
    #[must_use]
    pub const fn provenance(&self) -> FileOrigin {
        FileOrigin::from_bits_retain(self.flags.bits() >> HELD_PROVENANCE)
    }

    /// The thread that is about to execute, in the kernel's own number.
    #[must_use]
    pub const fn kernels_thread(&self) -> u32 {
        (self.stack >> 32) as u32
    }

    /// The same in its agent's PID namespace.
    #[must_use]
    pub const fn agents_thread(&self) -> u32 {
        (self.stack & 0xffff_ffff) as u32
    }
}

bitflags! {
    /// What is known of a program that is held.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct HeldFlags: u32 {
        /// Its exec is still to come: a stop would show to its parent, so it is held before that. It tries again
        /// and again until the agent is attached.
        const PRE_EXEC = 1 << 0;
        /// Somebody traces the task.
        const TRACED = 1 << 1;
        /// Nobody waits for a program that is coming any more: it starts without secrets.
        const WAIVED = 1 << 2;
        /// What runs is not the file that was asked for but its interpreter (a script).
        const SCRIPT = 1 << 3;
        /// The agent was attached before the exec, and the program stops at the event of that.
        const SEIZED = 1 << 4;
        /// The kernel does not keep writers from what runs, as it does from every executable but one that a fanotify
        /// listener asked to be told of before its content is there (6.14), and did not in 6.11.
        const WRITABLE = 1 << 5;
        /// It was kept waiting with `SIGCONT` blocked: one that nobody sent is pending.
        const CONTINUED = 1 << 6;
        /// What runs has the name that was asked for as its own, not by a link.
        const OWN_NAME = 1 << 7;
        /// Its memory is merged with that of others (`PR_SET_MEMORY_MERGE`): who executed it has switched that on before.
        const MERGED = 1 << 8;
        /// Its exec, which is still to come, was let on: where it has not taken place it has failed.
        const LET_ON = 1 << 9;
        /// The bits above are where what runs comes from: see [`Held::provenance`].
        const _ = !0;
    }
}

/// From this bit on: where what runs comes from, as it was at its exec.
const HELD_PROVENANCE: u32 = 16;
/// Longest that a program is coming, in nanoseconds, should nobody be there to end it: longer than any
/// `policy.holdTimeout` (five minutes).
pub const MAX_COMING_NS: u64 = 360 * 1_000_000_000;

/// A tmpfs of secret files, by the address of its superblock: exact for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Vault {
    /// Only this tree opens the files.
    pub seal: u64,
    /// Whose policy holds.
    pub scope: ScopeId,
    /// Device number, in the kernel's encoding.
    pub dev: u32,
}
