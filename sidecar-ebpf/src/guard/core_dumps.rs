//! A sealed process's core dumps. Its agent has set `RLIMIT_CORE` to 1, with which the kernel dumps nothing. Whoever changes that limit
//! waits until the agent has left the process's memory out of its dumps (`coredump_filter`), too: nearly no program does, and the file
//! would cost every start an eighth of what a start costs. Where dumps can go to a socket, which heeds no limit, the agent has done that
//! before the release.

use aya_ebpf::{btf_maps::LruHashMap, helpers::generated::bpf_ktime_get_ns, macros::btf_map};
use sidecar_common::{
    event::{CoreLimit, RecordKind},
    layout::MAX_HELD,
    policy::Sealed,
};

use super::{AccessRequest, procfs};
use crate::{
    kernel::{self, Ptr, load, off, read},
    ring, sealed,
};

/// The soft limit with which nothing is dumped, to a file or to a pipe (fs/coredump.c).
const NO_DUMP: u64 = 1;
/// Of `mm_struct.flags`: what of the memory is dumped (`MMF_DUMP_FILTER_MASK`, include/linux/sched/coredump.h, before 6.16).
const IS_DUMPED: u64 = 0x1ff << 2;
/// Longest that such a system call waits for the agent.
const WAIT_NS: u64 = 10_000_000_000;
/// How often the agent is told meanwhile: a record may have been lost.
const TELL_AGAIN_NS: u64 = 100_000_000;

/// A change that waits for the agent.
#[derive(Clone, Copy)]
#[repr(C)]
struct Change {
    since_ns: u64,
    told_ns: u64,
}

/// Those, by the process whose limit it is.
#[btf_map]
static CORE_LIMITS: LruHashMap<u32, Change, MAX_HELD> = LruHashMap::new();

/// Somebody who may changes a sealed process's limit, to `limit` (`struct rlimit`). Returns what the hook is to return.
#[inline(always)]
pub(super) fn set_limit(task: Ptr, tgid: u32, sealed: Sealed, limit: Ptr) -> i32 {
    // (soft, then hard: uapi/linux/resource.h)
    if off!(dumps_obey_limit) == 0 || read::<u64>(limit, 0) == NO_DUMP {
        return 0;
    }
    let mm: Ptr = load!(task, task_mm);
    if mm.is_null() || read::<u64>(mm, off!(mm_flags)) & IS_DUMPED == 0 {
        let _ = CORE_LIMITS.remove(tgid);
        return 0;
    }
    if !sealed::scope(sealed.scope).is_some_and(|scope| scope.agent != 0) {
        return kernel::eperm();
    }
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: copied at once.
    let change = unsafe { CORE_LIMITS.get(tgid) }.copied().unwrap_or(Change {
        since_ns: now,
        told_ns: 0,
    });
    if now - change.since_ns > WAIT_NS {
        let _ = CORE_LIMITS.remove(tgid);
        return kernel::eperm();
    }
    if now - change.told_ns > TELL_AGAIN_NS {
        let change = Change {
            told_ns: now,
            ..change
        };
        if CORE_LIMITS.insert(tgid, change, 0).is_err() {
            return kernel::eperm();
        }
        tell(task, tgid, sealed);
    }
    kernel::begin_anew().unwrap_or_else(kernel::eperm)
}

/// Whether it is what an agent does for a change that waits for it.
#[inline(always)]
pub(super) fn is_awaited(reach: &AccessRequest) -> bool {
    u128::from_ne_bytes(reach.name) == procfs::name(b"coredump_filter")
        && CORE_LIMITS.get_ptr(reach.tgid).is_some()
}

#[inline(always)]
fn tell(task: Ptr, tgid: u32, sealed: Sealed) {
    if let Some(mut entry) = ring::reserve::<CoreLimit>(sealed.scope, sealed.seal as u32) {
        entry.write(CoreLimit {
            header: ring::header(RecordKind::CoreLimit, tgid),
            start_ns: sealed.start_ns,
            pid: sealed::number_in(kernel::pid_of(task), sealed.scope),
            reserved: 0,
        });
        entry.submit(ring::NOW);
    }
}
