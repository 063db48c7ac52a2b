//! Whose a connection is.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use sidecar_common::network::{Owner, Settings};

use crate::{
    kernel::{self, follow, off, read},
    places,
};

/// The running process, if it is one that the scope's agent sees. To be asked only where the process itself is at
/// work.
#[inline(always)]
pub(crate) fn of_current(settings: &Settings) -> Option<Owner> {
    let task = kernel::current();
    let pid = number_of_current(settings);
    if pid == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    places::tell(cgroup, task);
    Some(Owner {
        pid,
        reserved: 0,
        cgroup,
        started_ns: kernel::start_of(task),
        // (a thread may have a name of its own)
        comm: read(follow(task, off!(task_leader)), off!(task_comm)),
    })
}

/// The running process's number as the scope's agent sees it; 0 when it does not. Without a walk: a process that the
/// agent sees has its number there at the agent's own level.
#[inline(always)]
pub(crate) fn number_of_current(settings: &Settings) -> u32 {
    let pid = kernel::pid_of(kernel::current());
    if kernel::level_of(pid) < settings.level {
        return 0;
    }
    let number = kernel::number_at(pid, settings.level);
    if number.namespace == settings.scope {
        number.nr
    } else {
        0
    }
}

/// The level of the PID namespace of who asks: the agent. Attached nowhere; it runs for its answer, which aya's macro
/// for such programs would not give.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn own_level(_ctx: *mut c_void) -> u32 {
    kernel::level_of(kernel::pid_of(kernel::current()))
}
