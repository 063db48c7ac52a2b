//! What the records of all monitors have: who did it, and where that lives.

use bytemuck::{Pod, Zeroable};

use crate::{event::Header, layout::COMM_LEN, policy::ScopeId};

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
    /// The `comm` of its first thread, NUL-padded.
    pub comm: Comm,
}

/// Whose processes a monitor watches: those of its agent's PID namespace, and of those nested below.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Within {
    /// The namespace.
    pub scope: ScopeId,
    /// Its level among PID namespaces; the first one's is 0.
    pub level: u32,
    /// The device number of the file system that namespaces are told by.
    pub device: u64,
}

/// In words, for bytes would be copied by a loop, which costs the verifier much.
pub type Comm = [u64; COMM_LEN / 8];

/// A control group that records are of: [`Place`]. Told before the first of them. (A number
/// beyond those of each monitor's own.)
pub const KIND_PLACE: u32 = 100;

/// Levels below the root at which a control group is told with its names.
pub const PLACE_LEVELS: usize = 10;
/// Bytes of a control group's name that are told, with its NUL: a container's is its id with what runtimes put
/// around it.
pub const PLACE_NAME_LEN: usize = 128;

/// Where a control group is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// `tgid` is 0.
    pub header: Header,
    /// Its inode number in cgroup2.
    pub cgroup: u64,
    /// How many of the names are its; one more than there are if it lies too deep.
    pub levels: u64,
    /// Its own name, and those above it up to the root, which has none; NUL-terminated.
    pub names: [[u8; PLACE_NAME_LEN]; PLACE_LEVELS],
}

/// What is counted in a monitor's array `LOST`, by index: records for which the ring had no room.
pub const LOST_RECORDS: u32 = 0;
/// Control groups that are remembered as told.
pub const PLACES_TOLD: usize = 4096;
/// Those of them that are found without a search.
pub const PLACES_AT_HAND: usize = 256;
