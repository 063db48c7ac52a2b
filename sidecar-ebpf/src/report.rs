//! Records of programs: one is held, was refused, or started.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_probe_read_kernel_str,
};
use sidecar_common::{
    event::{Exec, Header, RecordKind, RefusalReason, Subject},
    layout::NAME_LEN,
    policy::{ScopeFlags, ScopeId},
};

use crate::{
    kernel::{self, Number, Ptr, load_text, off},
    names::last_component,
    ring, sealed,
};

/// A HELD record: the agent has something to do.
#[inline(always)]
pub(crate) fn held(scope: ScopeId, tgid: u32) {
    if let Some(mut entry) = ring::reserve::<Header>(scope, tgid) {
        entry.write(ring::header(RecordKind::Held, tgid));
        entry.submit(ring::NOW);
    }
}

/// A REFUSED record of what the kernel side itself refused.
#[inline(always)]
pub(crate) fn refused(number: Number, tgid: u32, reason: RefusalReason, name: Ptr) {
    let header = ring::header(RecordKind::Refused, tgid);
    write_exec(number.namespace, number.nr, header, reason as u32, name);
}

/// An EXEC record for everything that starts in a scope that asked for it.
#[inline(always)]
pub(crate) fn started(task: Ptr, tgid: u32, bprm: Ptr) {
    let pid = kernel::pid_of(task);
    let Some((number, scope)) = sealed::scope_of(pid) else {
        return;
    };
    if !scope.flags.contains(ScopeFlags::ALL_EXECS) {
        return;
    }
    let name = last_component(load_text!(bprm, bprm_filename)) as Ptr;
    write_exec(
        number.namespace,
        number.nr,
        ring::header(RecordKind::Exec, tgid),
        0,
        name,
    );
}

#[inline(always)]
fn write_exec(scope: ScopeId, pid: u32, header: Header, reason: u32, name: Ptr) {
    let Some(mut entry) = ring::reserve::<Exec>(scope, header.tgid) else {
        return;
    };
    let exec = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size; every field is written before it is submitted.
    unsafe {
        (*exec).header = header;
        (*exec).subject = subject_of_current(pid);
        (*exec).reason = reason;
        (&raw mut (*exec).name).write_bytes(0, 1);
        let len =
            bpf_probe_read_kernel_str((&raw mut (*exec).name).cast(), NAME_LEN as u32, name.cast());
        (*exec).name_len = if len > 0 { len as u32 - 1 } else { 0 };
    }
    entry.submit(ring::NOW);
}

#[inline(always)]
fn subject_of_current(pid: u32) -> Subject {
    Subject {
        pid,
        // SAFETY: the helpers have no preconditions.
        uid: unsafe { bpf_get_current_uid_gid() as u32 },
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        comm: kernel::read_buf(kernel::current(), off!(task_comm)),
    }
}
