//! Who is refused what: the hooks of the security module, and the one place that decides.

mod agents;
mod files;
mod instruments;
mod mounts;
mod plain;
mod procfs;
pub(crate) mod ptrace;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid},
    macros::lsm,
    programs::LsmContext,
};
use sidecar_common::{
    event::{Access, KIND_ACCESS, Subject, VERDICT_ALLOWED, VERDICT_AUDIT, VERDICT_BLOCKED},
    layout::COMM_LEN,
    policy::{
        SCOPE_AUDIT_ALL, SCOPE_DISABLED, SCOPE_ENFORCE, SCOPE_SELF_READ, SEALED_AGENT, Scope,
        Sealed,
    },
};

use crate::{
    exec,
    kernel::{self, Ptr, load, off},
    ring, sealed,
};

/// `PROC_SUPER_MAGIC` (uapi/linux/magic.h)
const PROC_MAGIC: u64 = 0x9fa0;

/// What somebody reaches for.
struct Reach {
    /// Who is reached for.
    sealed: Sealed,
    /// Its task; null for a file.
    task: Ptr,
    /// Its number in the kernel's eyes; 0 for a file.
    tgid: u32,
    /// `WHAT_*`
    what: u32,
    /// The policy's bit that guards it; 0: always guarded.
    guarded_by: u32,
    /// Whether the tree's own members may, when the policy lets them read themselves.
    own: Own,
    /// For the record.
    name: [u8; COMM_LEN],
}

/// Which members of the sealed tree an access is open to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    /// All, always: the secret files are theirs.
    Always,
    /// All, if the policy's `allowSelfRead` says so.
    ByPolicy,
    /// None.
    Never,
}

/// Of a file's flags: it is opened to be executed (`__FMODE_EXEC`, include/linux/fs.h).
const EXECUTES: u32 = 0x20;

/// Every open on the node comes through here; most are of a file system that is known to have
/// nothing to guard.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let file: Ptr = ctx.arg(0);
    let inode: Ptr = load!(file, file_inode);
    let sb: Ptr = load!(inode, inode_sb);
    if plain::is(sb) {
        if load!(file, file_flags as u32) & EXECUTES == 0 {
            0
        } else {
            exec::open(file)
        }
    } else {
        open_elsewhere(file, inode, sb)
    }
}

/// Apart from the hook itself, so that most opens do not pay for its registers and its stack.
#[inline(never)]
fn open_elsewhere(file: Ptr, inode: Ptr, sb: Ptr) -> i32 {
    if load!(sb, sb_magic as u64) == PROC_MAGIC {
        procfs::open(file, inode)
    } else if let Some(vault) = files::vault(sb) {
        files::open(file, vault)
    } else {
        plain::remember(sb);
        0
    }
}

/// Allows or refuses, and reports.
#[inline(always)]
fn decide(reach: &Reach) -> i32 {
    // Without its scope's entry a seal is absolute.
    let scope = sealed::scope(reach.sealed.scope).unwrap_or(Scope {
        agent: 0,
        flags: u32::MAX & !SCOPE_SELF_READ & !SCOPE_AUDIT_ALL & !SCOPE_DISABLED,
        agent_pid: 0,
    });
    let actor = kernel::current_tgid();
    if actor == scope.agent && is_agents(reach) {
        return 0;
    }
    // an agent, or its helper, looks at itself: its runtime does when it starts
    if actor == reach.tgid && reach.sealed.flags & SEALED_AGENT != 0 && reach.own == Own::ByPolicy {
        return 0;
    }
    let is_own = match reach.own {
        Own::Always => true,
        Own::ByPolicy => scope.flags & SCOPE_SELF_READ != 0,
        Own::Never => false,
    } && sealed::current().is_some_and(|actor| actor.seal == reach.sealed.seal);
    let is_guarded = reach.guarded_by == 0 || scope.flags & reach.guarded_by != 0;
    if is_own || !is_guarded {
        if scope.flags & SCOPE_AUDIT_ALL != 0 {
            report(reach, VERDICT_ALLOWED);
        }
        return 0;
    }
    // an agent is never open, not even in audit mode
    if scope.flags & SCOPE_ENFORCE == 0 && reach.sealed.flags & SEALED_AGENT == 0 {
        if scope.flags & SCOPE_DISABLED == 0 {
            report(reach, VERDICT_AUDIT);
        }
        return 0;
    }
    report(reach, VERDICT_BLOCKED);
    kernel::eperm()
}

/// An agent reaches for what it holds and for the files it delivers; for nothing else.
#[inline(always)]
fn is_agents(reach: &Reach) -> bool {
    reach.tgid == 0 || sealed::HELD.get_ptr(reach.tgid).is_some()
}

#[inline(always)]
fn report(reach: &Reach, verdict: u32) {
    let Some(mut entry) = ring::reserve::<Access>(reach.sealed.scope) else {
        return;
    };
    let current = kernel::current();
    let actor = Subject {
        pid: sealed::number_in(kernel::pid_of(current), reach.sealed.scope),
        // SAFETY: the helpers have no preconditions.
        uid: unsafe { bpf_get_current_uid_gid() as u32 },
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        comm: kernel::read_buf(current, off!(task_comm)),
    };
    let target = if reach.task.is_null() {
        Subject {
            pid: 0,
            uid: 0,
            cgroup: 0,
            comm: [0; COMM_LEN],
        }
    } else {
        Subject {
            pid: sealed::number_in(kernel::pid_of(reach.task), reach.sealed.scope),
            uid: kernel::read(kernel::follow(reach.task, off!(task_cred)), off!(cred_euid)),
            cgroup: 0,
            comm: kernel::read_buf(reach.task, off!(task_comm)),
        }
    };
    entry.write(Access {
        header: ring::header(KIND_ACCESS, reach.tgid),
        actor,
        target,
        seal: reach.sealed.seal,
        what: reach.what,
        verdict,
        name: reach.name,
    });
    entry.submit(0);
}
