//! A process's numbers: one in each PID namespace that it is in.

use sidecar_common::{layout::MAX_PID_LEVELS, policy::ScopeId};

use super::{Ptr, follow, off, read, start_of};

/// One of a process's numbers: in which namespace, and which.
#[derive(Clone, Copy)]
pub struct Number {
    /// The namespace's inode number.
    pub namespace: ScopeId,
    /// The process's number in it.
    pub nr: u32,
}

/// The number of `pid` at a namespace level that it has, and that namespace.
#[inline(always)]
fn upid_at(pid: Ptr, level: u32) -> (u32, Ptr) {
    let at = off!(pid_numbers) + level as usize * off!(upid_size);
    if off!(upid_nr) == 0 && off!(upid_ns) == size_of::<u64>() {
        let [nr, namespace]: [u64; 2] = read(pid, at);
        return (nr as u32, namespace as Ptr);
    }
    (
        read(pid, at + off!(upid_nr)),
        follow(pid, at + off!(upid_ns)),
    )
}

/// The number of `pid` at a namespace level that it has, with the namespace's own.
#[inline(always)]
pub fn number_at(pid: Ptr, level: u32) -> Number {
    let (nr, namespace) = upid_at(pid, level);
    Number {
        namespace: read(namespace, off!(pidns_inum)),
        nr,
    }
}

/// The PID namespace of `pid` at a namespace level that it has.
#[must_use]
#[inline(always)]
pub fn namespace_at(pid: Ptr, level: u32) -> Ptr {
    upid_at(pid, level).1
}

/// When process 1 of a PID namespace started: with the namespace's number, which namespace it is.
#[must_use]
#[inline(always)]
pub fn start_of_init(namespace: Ptr) -> u64 {
    start_of(follow(namespace, off!(pidns_reaper)))
}

/// The `struct pid` of a task's process.
#[inline(always)]
pub fn pid_of(task: Ptr) -> Ptr {
    follow(follow(task, off!(task_leader)), off!(task_thread_pid))
}

/// The process's number in its own namespace, alone.
#[inline(always)]
#[must_use]
pub fn own_nr(pid: Ptr) -> u32 {
    upid_at(pid, level_of(pid) % MAX_PID_LEVELS).0
}

/// The process's number in its own namespace.
#[inline(always)]
pub fn own_number(pid: Ptr) -> Number {
    let level: u32 = read(pid, off!(pid_level));
    number_at(pid, level % MAX_PID_LEVELS)
}

/// The level of the process's own PID namespace; the first one's is 0.
#[must_use]
#[inline(always)]
pub fn level_of(pid: Ptr) -> u32 {
    read(pid, off!(pid_level))
}

/// Walks from the process's own PID namespace outwards, to the first for whose number and address `found` is true.
/// For use in a function that is verified on its own: the loop costs the verifier much.
#[inline(always)]
pub fn closest(pid: Ptr, found: impl Fn(ScopeId, Ptr) -> bool) -> Option<Number> {
    let level: u32 = read(pid, off!(pid_level));
    for step in 0..MAX_PID_LEVELS {
        if step > level {
            break;
        }
        let level = (level - step) % MAX_PID_LEVELS;
        let (nr, address) = upid_at(pid, level);
        let namespace = read(address, off!(pidns_inum));
        if found(namespace, address) {
            return Some(Number { namespace, nr });
        }
    }
    None
}
