//! Where control groups are. By its number alone an agent finds no container whose program is gone already.

use aya_ebpf::{
    btf_maps::LruHashMap, helpers::generated::bpf_probe_read_kernel_str, macros::btf_map,
};
use sidecar_common::network::{KIND_PLACE, PLACE_LEVELS, PLACE_NAME_LEN, Place};

use crate::{
    kernel::{Ptr, follow, off},
    records,
};

/// Control groups that were told; one that is pushed out is told again.
#[btf_map]
static PLACES_TOLD: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// Tells where a task's control group is, once.
#[inline(always)]
pub(crate) fn tell(cgroup: u64, task: Ptr) {
    if PLACES_TOLD.get_ptr(cgroup).is_some() {
        return;
    }
    let Some(mut entry) = records::reserve::<Place>() else {
        return;
    };
    let place = entry.as_mut_ptr();
    let group = follow(follow(task, off!(task_cgroups)), off!(css_set_cgroup));
    let mut node = follow(group, off!(cgroup_node));
    let mut levels = 0;
    // SAFETY: reserved memory of this size; the helper checks the address that it reads from. Names above the last
    // are not written: they were in the ring before, and the count says which are meant.
    unsafe {
        (*place).header = records::header(KIND_PLACE, records::now());
        (*place).cgroup = cgroup;
        for level in 0..PLACE_LEVELS {
            let above = follow(node, off!(node_parent));
            // (the root)
            if above.is_null() {
                break;
            }
            let name = follow(node, off!(node_name));
            bpf_probe_read_kernel_str(
                (&raw mut (*place).names[level]).cast(),
                PLACE_NAME_LEN as u32,
                name.cast(),
            );
            levels += 1;
            node = above;
        }
        if !follow(node, off!(node_parent)).is_null() {
            levels += 1;
        }
        (*place).levels = levels;
    }
    entry.submit(0);
    let _ = PLACES_TOLD.insert(cgroup, 1, 0);
}
