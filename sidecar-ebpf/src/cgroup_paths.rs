//! Where control groups are, for who knows them by their numbers.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use sidecar_common::monitor::{PLACE_LEVELS, PLACE_NAME_LEN, Place};

use crate::kernel::{Ptr, follow, off};

/// Writes where a task's control group is: all but the record's header.
///
/// # Safety
///
/// `place` must be reserved memory of that size. Names above the last are not written: they were there before, and the
/// count says which are meant.
#[inline(always)]
pub(crate) unsafe fn write(place: *mut Place, cgroup: u64, task: Ptr) {
    let group = follow(follow(task, off!(task_cgroups)), off!(css_set_cgroup));
    let mut node = follow(group, off!(cgroup_node));
    let mut levels = 0;
    // SAFETY: as the caller promises; the helper checks the address that it reads from.
    unsafe {
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
}
