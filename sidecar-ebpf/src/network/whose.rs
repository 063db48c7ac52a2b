//! Whose a connection is, and where that lives. By its number alone an agent finds no container whose program is gone
//! already.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use sidecar_common::{
    network::{KIND_PLACE, Place, Settings},
    owner::Owner,
};

use crate::{kernel, owner, places, records};

/// Control groups that were told; one that is pushed out is told again.
#[btf_map]
static PLACES_TOLD: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// The running process, if it is one that the scope's agent sees. To be asked only where the process itself is at
/// work.
#[inline(always)]
pub(crate) fn owner(settings: &Settings) -> Option<Owner> {
    let owner = owner::of_current(settings.scope, settings.level)?;
    tell(owner.cgroup);
    Some(owner)
}

/// Tells where the running task's control group is, once.
#[inline(always)]
fn tell(cgroup: u64) {
    if PLACES_TOLD.get_ptr(cgroup).is_some() {
        return;
    }
    let Some(mut entry) = records::reserve::<Place>() else {
        return;
    };
    let place = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size.
    unsafe {
        (*place).header = records::header(KIND_PLACE, records::now());
        places::write(place, cgroup, kernel::current());
    }
    entry.submit(0);
    let _ = PLACES_TOLD.insert(cgroup, 1, 0);
}
