//! Who does what a monitor tells of: the process that runs, as the monitor's agent can name it.

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use sidecar_common::{owner::Owner, policy::ScopeId};

use crate::kernel::{self, follow, off, read};

/// The running process, if an agent in that PID namespace, which is at that level, sees it. To be asked only where
/// the process itself is at work.
#[inline(always)]
#[must_use]
pub fn of_current(scope: ScopeId, level: u32) -> Option<Owner> {
    let task = kernel::current();
    let pid = number_of_current(scope, level);
    if pid == 0 {
        return None;
    }
    Some(Owner {
        pid,
        reserved: 0,
        // SAFETY: the helper has no preconditions.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        started_ns: kernel::start_of(task),
        // (a thread may have a name of its own)
        comm: read(follow(task, off!(task_leader)), off!(task_comm)),
    })
}

/// The running process's number as such an agent sees it; 0 when it does not. Without a walk: a process that the
/// agent sees has its number there at the agent's own level.
#[inline(always)]
#[must_use]
pub fn number_of_current(scope: ScopeId, level: u32) -> u32 {
    let pid = kernel::pid_of(kernel::current());
    if kernel::level_of(pid) < level {
        return 0;
    }
    let number = kernel::number_at(pid, level);
    if number.namespace == scope {
        number.nr
    } else {
        0
    }
}

/// The level of the running process's own PID namespace.
#[inline(always)]
#[must_use]
pub fn level_of_current() -> u32 {
    kernel::level_of(kernel::pid_of(kernel::current()))
}
