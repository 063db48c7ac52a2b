//! Who did what a monitor tells of.

use bytemuck::{Pod, Zeroable};

use crate::layout::COMM_LEN;

/// A process, as its agent can name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Owner {
    /// Its number in the agent's PID namespace.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
    /// Its control group, as its inode number in cgroup2; 0 where unknown.
    pub cgroup: u64,
    /// When it started, on the boot clock, in nanoseconds: with its number, who it is.
    pub started_ns: u64,
    /// The `comm` of its first thread, NUL-padded; in words, for bytes would be copied by a loop, which costs the
    /// verifier much.
    pub comm: [u64; COMM_LEN / 8],
}
