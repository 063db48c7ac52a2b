//! What the maps hold: who owns a scope, which names it watches, who is sealed, what is held.

use bytemuck::{Pod, Zeroable};

use crate::layout::{NAME_FILTER_SLOTS, NAME_LEN};

/// The inode number of a PID namespace (`/proc/<pid>/ns/pid`): how a scope is named in every map.
pub type ScopeId = u32;

/// A scope: the part of the node that one agent answers for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Scope {
    /// The agent's process in the kernel's own numbers; 0 when no live agent is there. The kernel
    /// side clears it when that process exits.
    pub agent: u32,
    /// `SCOPE_*` bits.
    pub flags: u32,
    /// The agent's process as it sees itself, for the message a second agent prints.
    pub agent_pid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Refuse (else: allow and log).
pub const SCOPE_ENFORCE: u32 = 1 << 0;
/// Guard `environ`.
pub const SCOPE_BLOCK_ENVIRON: u32 = 1 << 1;
/// Guard `mem` and `process_vm_*`.
pub const SCOPE_BLOCK_MEM: u32 = 1 << 2;
/// Guard `maps` and its kin.
pub const SCOPE_BLOCK_MAPS: u32 = 1 << 3;
/// Guard every form of attaching.
pub const SCOPE_BLOCK_PTRACE: u32 = 1 << 4;
/// A sealed process and its sealed tree may read themselves.
pub const SCOPE_SELF_READ: u32 = 1 << 5;
/// Report accesses that are allowed too.
pub const SCOPE_AUDIT_ALL: u32 = 1 << 6;
/// Report every exec, not only those whose name is bound.
pub const SCOPE_ALL_EXECS: u32 = 1 << 7;
/// What cannot be delivered starts without its secrets (else: it does not start).
pub const SCOPE_FAIL_OPEN: u32 = 1 << 8;

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
    /// [`name_hash`] of the file name.
    pub name: u64,
    /// Whose name this is.
    pub scope: ScopeId,
    /// Zero.
    reserved: u32,
}

impl BindingKey {
    /// A scope's name, by its [`name_hash`].
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
    /// `SEALED_*` bits.
    pub flags: u32,
}

/// The process is an agent, or its helper: nobody reads or attaches to it.
pub const SEALED_AGENT: u32 = 1 << 0;
/// The process is the one the seal was given to, not a child that inherited it.
pub const SEALED_ROOT: u32 = 1 << 1;
/// The process is about to execute a watched program and has no secrets yet: it is guarded, so that
/// nobody takes hold of the new memory between its birth and the seal proper; its children are not.
pub const SEALED_EXECING: u32 = 1 << 2;
/// The seal was taken off; the kernel side removes the entry when the process ends.
pub const SEALED_VOID: u32 = 1 << 3;

/// A program that was stopped before its first instruction and waits for its agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Held {
    /// When, on the monotonic clock, in nanoseconds.
    pub since_ns: u64,
    /// `mm->start_stack`: the stack pointer at the first instruction. Random per exec, so it also
    /// tells this exec from any other.
    pub stack: u64,
    /// The seal given at this exec.
    pub seal: u64,
    /// When the task started, on the boot clock, in nanoseconds.
    pub start_ns: u64,
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
    /// `HELD_*` bits.
    pub flags: u32,
    /// Bytes of `name`, without a NUL.
    pub name_len: u32,
    /// Base name of the path the exec was asked for, or the file's own name where that one matched.
    pub name: [u8; NAME_LEN],
}

/// The task has a controlling terminal: it was not stopped by a signal, which its shell would see.
pub const HELD_TTY: u32 = 1 << 0;
/// Somebody traces the task.
pub const HELD_TRACED: u32 = 1 << 1;
/// The agent itself makes the task exec a second time: do not hold that one.
pub const HELD_REEXEC: u32 = 1 << 2;
/// What runs is not the file that was asked for but its interpreter (a script).
pub const HELD_SCRIPT: u32 = 1 << 3;
/// The agent is attached, and will have it stop at the event of this exec.
pub const HELD_SEIZED: u32 = 1 << 4;

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

/// Where [`name_hash`] begins.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
/// An odd constant whose product spreads low bits upwards (2^64 divided by the golden ratio).
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of [`name_hash`]: eight bytes of a name, the first in the lowest place, zeros after
/// its end. A word of zeros only is not part of a name.
#[inline(always)]
#[must_use]
#[expect(
    clippy::inline_always,
    reason = "a call in a loop is not verifiable on 5.10"
)]
pub const fn hash_step(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(HASH_FACTOR);
    mixed ^ (mixed >> 32)
}

/// Hash of a file name (a path's last component). A filter only: the agent compares the names.
#[must_use]
pub const fn name_hash(name: &[u8]) -> u64 {
    let mut hash = HASH_START;
    let mut rest = name;
    while !rest.is_empty() {
        let (word, more) = rest.split_at(if rest.len() < 8 { rest.len() } else { 8 });
        let mut padded = [0; 8];
        padded.split_at_mut(word.len()).0.copy_from_slice(word);
        hash = hash_step(hash, u64::from_le_bytes(padded));
        rest = more;
    }
    hash
}

/// The place in the filter of names for those that end in these bytes ([`name_end`]): all that most
/// starts of a program have looked at.
#[inline(always)]
#[must_use]
#[expect(
    clippy::inline_always,
    clippy::cast_possible_truncation,
    reason = "see hash_step; some bits of a hash"
)]
pub const fn name_filter_slot(end: u64) -> u32 {
    hash_step(HASH_START, end) as u32 % NAME_FILTER_SLOTS
}

/// A name's last eight bytes, the last in the highest place, zeros before its start.
#[must_use]
pub const fn name_end(name: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < name.len() {
        word = (word >> 8) | ((name[i] as u64) << 56);
        i += 1;
    }
    word
}

/// The eight bytes up to the end of a text that ends after so many `bytes` (0 to 7) of a `word`,
/// which follows the word `before`.
#[inline(always)]
#[must_use]
#[expect(clippy::inline_always, reason = "see hash_step")]
pub const fn last_eight(before: u64, word: u64, bytes: u32) -> u64 {
    // In two steps: a shift by 64 is none.
    (word << (63 - 8 * bytes) << 1) | (before >> (8 * bytes))
}

/// A path's last eight bytes without those that belong to a directory's name: the [`name_end`] of
/// its last component.
#[inline(always)]
#[must_use]
#[expect(clippy::inline_always, reason = "see hash_step")]
pub const fn without_directory(end: u64) -> u64 {
    let mut slashes = zero_bytes(end ^ SLASHES);
    // Every byte up to the last slash, of which the highest is marked.
    slashes |= slashes >> 8;
    slashes |= slashes >> 16;
    slashes |= slashes >> 32;
    end & !((slashes >> 7) * 0xff)
}

/// Eight slashes.
pub const SLASHES: u64 = 0x2f2f_2f2f_2f2f_2f2f;

/// How many bytes of a word are marked, where marks are as [`zero_bytes`] makes them.
#[inline(always)]
#[must_use]
#[expect(clippy::inline_always, reason = "see hash_step")]
pub const fn count_marks(marks: u64) -> u32 {
    ((marks >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// A mark for every byte.
pub const MARKS: u64 = 0x8080_8080_8080_8080;

/// Marks every byte of a word that is zero with its highest bit; exact for each byte, since no
/// carry crosses from one to the next.
#[inline(always)]
#[must_use]
pub const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !(((word & LOW) + LOW) | word | LOW)
}

/// The bytes of a word below the first of those that [`zero_bytes`] marked.
#[inline(always)]
#[must_use]
#[expect(
    clippy::inline_always,
    reason = "a call in a loop is not verifiable on 5.10"
)]
pub const fn below_first(marks: u64) -> u64 {
    ((marks & marks.wrapping_neg()) >> 7).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_anywhere_hash_differently() {
        let names: [&[u8]; 7] = [
            b"psql",
            b"psq",
            b"psqll",
            b"psqlpsql",
            b"psqlpsqlx",
            b"",
            b"lqsp",
        ];
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                assert_ne!(name_hash(a), name_hash(b));
            }
        }
    }

    /// What the kernel side does with a path that ends in zeros.
    fn end_of_path(path: &[u8]) -> u64 {
        let mut before = 0;
        for word in path.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            let word = u64::from_le_bytes(padded);
            let end = zero_bytes(word);
            if end != 0 {
                let bytes = count_marks(below_first(end) & MARKS);
                return without_directory(last_eight(before, word, bytes));
            }
            before = word;
        }
        without_directory(before)
    }

    #[test]
    fn a_path_ends_as_its_last_component_does() {
        for directory in [
            "",
            "/",
            "/bin/",
            "./",
            "/usr/bin/",
            "/a/very/long/path/to/some/",
            "//",
        ] {
            for name in [
                "",
                "a",
                "psql",
                "program",
                "programs",
                "programs1",
                "some-longer-name",
                "x86-64",
            ] {
                let path = [directory, name].concat();
                assert_eq!(
                    end_of_path(path.as_bytes()),
                    name_end(name.as_bytes()),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn zero_bytes_are_found_where_they_are() {
        assert_eq!(
            zero_bytes(u64::from_le_bytes(*b"/./\0\x01a\0b")),
            0x0080_0000_8000_0000
        );
        assert_eq!(zero_bytes(u64::from_le_bytes(*b"abcdefgh")), 0);
        let word = u64::from_le_bytes(*b"ab\0cd\0ef");
        assert_eq!(
            word & below_first(zero_bytes(word)),
            u64::from_le_bytes(*b"ab\0\0\0\0\0\0")
        );
        assert_eq!(
            below_first(zero_bytes(u64::from_le_bytes(*b"\0bcdefgh"))),
            0
        );
    }
}
