//! What the agent wants to hear of, and how often.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap},
    macros::btf_map,
};
use sidecar_common::syscall::{
    Call, CallFlags, FilterFlags, GroupVerdict, MAX_CALLS, MAX_GROUPS, MAX_UIDS, Rate, Settings,
};

use crate::{
    kernel,
    monitor::{self, Shared, Task},
};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

// (By its name the compiler knows that others write to it, and does not take it for the zeros that it begins with.)
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.settings")]
static SETTINGS: Shared<Settings> = Shared::zeroed();
/// By their numbers.
#[btf_map]
static CALLS: Array<Call, MAX_CALLS> = Array::new();
#[btf_map]
static UIDS: HashMap<u32, u8, MAX_UIDS> = HashMap::new();
/// `GROUP_*`, by control group.
#[btf_map]
static GROUPS: LruHashMap<u64, u32, MAX_GROUPS> = LruHashMap::new();
#[btf_map]
static RATES: LruHashMap<u64, Rate, MAX_GROUPS> = LruHashMap::new();

/// What is asked for.
#[inline(always)]
pub(crate) fn settings() -> &'static Settings {
    // SAFETY: words, which the agent may change at any time.
    unsafe { &*SETTINGS.get() }
}

/// How a call is watched, if it is.
#[inline(always)]
pub(crate) fn watched(number: u32) -> Option<&'static Call> {
    CALLS
        .get(number)
        .filter(|call| call.flags.contains(CallFlags::WATCHED))
}

/// Whether the calls of who runs are told of, as far as that is a matter of the user.
#[inline(always)]
pub(crate) fn admits_user(settings: &Settings, task: Task) -> bool {
    !settings.flags.contains(FilterFlags::ONLY_UIDS) || UIDS.get_ptr(task.uid()).is_some()
}

/// Whether a control group's calls are told of. One that the agent has not judged yet is: it judges by that.
#[inline(always)]
pub(crate) fn admits_group(settings: &Settings, cgroup: u64) -> bool {
    if !settings.flags.contains(FilterFlags::ONLY_GROUPS) {
        return true;
    }
    // SAFETY: a live map value of one word.
    GROUPS.get_ptr(cgroup).map(|verdict| unsafe { *verdict }) != Some(GroupVerdict::Unwanted as u32)
}

/// Whether there is room for one more of a control group's in this second; counts it either way.
#[inline(always)]
pub(crate) fn has_room(settings: &Settings, cgroup: u64) -> bool {
    if settings.rate == 0 {
        return true;
    }
    let now = monitor::now();
    let Some(rate) = RATES.get_ptr_mut(cgroup) else {
        let first = Rate {
            since_ns: now,
            count: 1,
            dropped: 0,
        };
        let _ = RATES.insert(cgroup, &first, 0);
        return true;
    };
    // SAFETY: a live map value of words. Two that begin a second at once let a few more through.
    unsafe {
        if now.wrapping_sub((*rate).since_ns) >= SECOND {
            (*rate).since_ns = now;
            (*rate).count = 1;
            return true;
        }
        kernel::add(&raw mut (*rate).count, 1);
        if (*rate).count <= u64::from(settings.rate) {
            return true;
        }
        kernel::add(&raw mut (*rate).dropped, 1);
    }
    false
}
