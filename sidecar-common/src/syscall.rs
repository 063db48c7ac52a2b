//! What crosses the kernel boundary of the system call monitor: what is asked of it, and its records.
//!
//! As with [`crate::network`], none of it is pinned.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};
use num_enum::TryFromPrimitive;

use crate::{
    event::Header,
    monitor::{KIND_PLACE, Owner, Within},
};

/// Bytes of the monitor's ring buffer; a power-of-two number of pages.
pub const RING_BYTES: usize = 2 * 1024 * 1024;
/// Numbers of system calls are below, as programs of either width make them. (The kernel's tables end at about 470.)
pub const MAX_NUMBER: u32 = 512;
/// What is added to the number of a call of 32 bits: they are numbered anew.
pub const NARROW: u32 = MAX_NUMBER;
/// What is added to that of a part of `socketcall(2)`, which begin with 1 (include/uapi/linux/net.h): behind all that a
/// program can ask for.
pub const SOCKETCALL: u32 = 2 * MAX_NUMBER;
/// Parts of `socketcall(2)`.
pub const SOCKETCALL_PARTS: u32 = 20;
/// Numbers of watched calls are below.
pub const MAX_CALLS: usize = (SOCKETCALL + SOCKETCALL_PARTS + 1) as usize;
/// Arguments of a system call.
pub const ARGUMENTS: usize = 6;
/// Texts of one call: those of `renameat2` and `mount`.
pub const TEXTS: usize = 2;
/// Bytes of a text that are told, with its NUL.
pub const TEXT_BYTES: usize = 256;
/// Room for an address, a power of two. A byte less is told at the most: a whole `struct sockaddr_un` has 110.
pub const ADDRESS_BYTES: usize = 128;
/// Threads that may make watched calls at one time.
pub const MAX_THREADS: usize = 16_384;
/// Of them, those within an exec.
pub const MAX_EXECS: usize = 1_024;
/// Control groups that are judged and limited at one time.
pub const MAX_GROUPS: usize = 4_096;
/// Users that a filter may name.
pub const MAX_UIDS: usize = 256;

/// What the agent asks of the kernel side. It may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// Whose processes are watched.
    pub within: Within,
    /// What is left out.
    pub flags: FilterFlags,
    /// Records a second that a control group may have; 0 for any number.
    pub rate: u32,
    /// The agent's own number there. What it does is not told: to tell of that would be more to tell of.
    pub agent: u32,
    /// Zero.
    pub reserved: u32,
}

bitflags! {
    /// What is left out.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct FilterFlags: u32 {
        /// Only calls that fail.
        const ONLY_FAILED = 1 << 0;
        /// Only users that are listed.
        const ONLY_UIDS = 1 << 1;
        /// Only control groups that are judged to be wanted, or not judged yet.
        const ONLY_GROUPS = 1 << 2;
        /// What is watched, or how, is just being changed: a call may begin twice, by the function that does it and by the
        /// tracepoint that all pass, where one way takes over from the other.
        const CHANGING = 1 << 3;
    }
}

/// How one system call is watched. A place is an argument's index and one; 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Call {
    /// How; none where it is not watched.
    pub flags: CallFlags,
    /// The places of its texts.
    pub texts: [u8; TEXTS],
    /// The place of its address.
    pub address: u8,
    /// The place of that address's length, or of a pointer to it.
    pub address_length: u8,
    /// How many arguments it has.
    pub arguments: u32,
}

bitflags! {
    /// How a system call is watched.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
    pub struct CallFlags: u32 {
        /// Somebody wants to hear of it.
        const WATCHED = 1 << 0;
        /// It does not return.
        const ENDS = 1 << 1;
        /// Its texts are gone when it returns well.
        const EXEC = 1 << 2;
        /// `address_length` is that of a pointer.
        const LENGTH_BY_POINTER = 1 << 3;
        /// `address` is that of a `struct msghdr`, which has the address.
        const MESSAGE = 1 << 4;
        /// What its arguments point to is of 32 bits.
        const NARROW = 1 << 5;
        /// It is one of several, which its first argument tells.
        const PARTS = 1 << 6;
        /// It is one of those: its arguments, of 32 bits, are where the second of the whole points to.
        const PART = 1 << 7;
    }
}

/// What was judged of a control group.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupVerdict {
    /// Its calls are reported.
    Wanted = 1,
    /// Its calls are not reported.
    Unwanted = 2,
}

/// What a control group had of the second that runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Rate {
    /// Since when the second runs, on the monotonic clock, in nanoseconds.
    pub since_ns: u64,
    /// Records in it.
    pub count: u64,
    /// Records that were one too many, since the beginning.
    pub dropped: u64,
}

/// What a record of the system call monitor is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum RecordKind {
    /// A record of a system call.
    Syscall = 1,
    /// Where a control group is: [`Place`](crate::monitor::Place).
    Place = KIND_PLACE,
}

/// A system call that has returned, or does not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Syscall {
    /// `tgid` is 0.
    pub header: Header,
    /// Whose.
    pub owner: Owner,
    /// Its arguments, as they were at its beginning.
    pub arguments: [u64; ARGUMENTS],
    /// What it returned.
    pub result: i64,
    /// How long it took.
    pub duration_ns: u64,
    /// Its number; of one of 32 bits see [`NARROW`].
    pub number: u32,
    /// Its process's user, in the initial user namespace.
    pub uid: u32,
    /// Bytes of its texts that are here, with their NULs; 0 for one that could not be read.
    pub text_lengths: [u16; TEXTS],
    /// The same of its address.
    pub address_length: u16,
    /// Zero.
    pub reserved: u16,
    /// Its address. What is behind its length is not it.
    pub address: [u8; ADDRESS_BYTES],
    /// Its texts. What is behind their lengths is not them.
    pub texts: [[u8; TEXT_BYTES]; TEXTS],
}

/// What is counted in the array `LOST` beside [`LOST_RECORDS`](crate::monitor::LOST_RECORDS): returns that the kernel did
/// not tell of: a return probe has so many places, and calls that wait take them.
pub const LOST_RETURNS: u32 = 1;
/// Counters in `LOST`.
pub const LOST_COUNTERS: usize = 2;
