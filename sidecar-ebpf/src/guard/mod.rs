//! Who is refused what: the hooks of the security module, and the one place that decides.

mod agents;
mod files;
mod kernel_files;
mod kernel_interfaces;
pub(crate) mod libraries;
mod mounts;
mod pins;
mod procfs;
pub(crate) mod ptrace;
pub(crate) mod self_test;
mod unguarded_sb;

use aya_ebpf::{
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid},
    macros::lsm,
    programs::LsmContext,
};
use sidecar_common::{
    event::{Access, AccessKind, RecordKind, Subject, Verdict},
    layout::COMM_LEN,
    policy::{ScopeFlags, Sealed, SealedFlags},
};

use crate::{
    exec,
    kernel::{self, Ptr, load, off},
    ring, sealed,
};

/// `PROC_SUPER_MAGIC` (uapi/linux/magic.h)
const PROC_MAGIC: u64 = 0x9fa0;

/// What somebody reaches for.
struct AccessRequest {
    /// Who is reached for.
    sealed: Sealed,
    /// Its task; null for a file.
    task: Ptr,
    /// Its number in the kernel's eyes; 0 for a file.
    tgid: u32,
    /// What of it.
    what: AccessKind,
    /// The policy's bit that guards it; 0: always guarded.
    guarded_by: ScopeFlags,
    /// Whether the tree's own members may, when the policy lets them read themselves.
    own: SelfAccess,
    /// For the record.
    name: [u8; COMM_LEN],
}

/// Which members of the sealed tree an access is open to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SelfAccess {
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
    if unguarded_sb::is(sb) {
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
    let magic = load!(sb, sb_magic as u64);
    if magic == PROC_MAGIC {
        procfs::open(file, inode)
    } else if kernel_files::is_one(magic) {
        if is_written(file) {
            kernel_files::write_elsewhere(file)
        } else {
            0
        }
    } else if files::vault(sb).is_some() {
        open_secret(file, sb)
    } else {
        unguarded_sb::remember(sb);
        0
    }
}

/// Apart, for its stack.
#[inline(never)]
fn open_secret(file: Ptr, sb: Ptr) -> i32 {
    match files::vault(sb) {
        Some(vault) => files::open(file, vault),
        None => kernel::eperm(),
    }
}

/// Every read, write and listing on the node comes through here: what may be opened is not what may be used for ever, for
/// a process may be sealed, or an agent begin, after the open.
#[lsm(hook = "file_permission")]
pub fn file_permission(ctx: LsmContext) -> i32 {
    let file: Ptr = ctx.arg(0);
    let inode: Ptr = load!(file, file_inode);
    let sb: Ptr = load!(inode, inode_sb);
    if unguarded_sb::is(sb) {
        0
    } else {
        use_elsewhere(file, inode, sb, ctx.arg(1))
    }
}

#[inline(never)]
fn use_elsewhere(file: Ptr, inode: Ptr, sb: Ptr, mask: u32) -> i32 {
    /// `MAY_WRITE` (include/linux/fs.h)
    const WRITE: u32 = 2;
    let magic = load!(sb, sb_magic as u64);
    let is_written = mask & WRITE != 0;
    if magic == PROC_MAGIC {
        procfs::used(file, inode, is_written)
    } else if kernel_files::is_one(magic) {
        if is_written {
            kernel_files::write_elsewhere(file)
        } else {
            0
        }
    } else {
        if files::vault(sb).is_none() {
            unguarded_sb::remember(sb);
        }
        0
    }
}

/// Whether a file is open for writing.
#[inline(always)]
fn is_written(file: Ptr) -> bool {
    /// `FMODE_WRITE` (include/linux/fs.h)
    const MODE_WRITE: u32 = 2;
    load!(file, file_mode as u32) & MODE_WRITE != 0
}

/// Allows or refuses, and reports.
#[inline(always)]
fn decide(reach: &AccessRequest) -> i32 {
    finish(reach, judge(reach))
}

/// Reports what was decided, if anything is to be reported, and does it. (In one place of each hook: the verifier follows each.)
#[inline(always)]
fn finish(reach: &AccessRequest, verdict: Option<Verdict>) -> i32 {
    let Some(verdict) = verdict else {
        return 0;
    };
    report(reach, verdict);
    if verdict == Verdict::Blocked {
        kernel::eperm()
    } else {
        0
    }
}

/// What becomes of it; `None`: it is allowed, and not reported.
#[inline(always)]
fn judge(reach: &AccessRequest) -> Option<Verdict> {
    let scope = sealed::scope_or_strict(reach.sealed.scope);
    let actor = kernel::current_tgid();
    if sealed::is_agent_of(&scope) && is_agents(reach) {
        return None;
    }
    // an agent, or its helper, looks at itself: its runtime does when it starts
    if actor == reach.tgid
        && reach.sealed.flags.contains(SealedFlags::AGENT)
        && reach.own == SelfAccess::ByPolicy
    {
        return None;
    }
    let is_own = match reach.own {
        SelfAccess::Always => true,
        SelfAccess::ByPolicy => scope.flags.contains(ScopeFlags::SELF_READ),
        SelfAccess::Never => false,
    } && sealed::current().is_some_and(|actor| actor.seal == reach.sealed.seal);
    let is_guarded = reach.guarded_by.is_empty() || scope.flags.intersects(reach.guarded_by);
    if is_own || !is_guarded {
        return if scope.flags.contains(ScopeFlags::AUDIT_ALL) {
            Some(Verdict::Allowed)
        } else {
            None
        };
    }
    // an agent is never open, not even in audit mode
    if !scope.flags.contains(ScopeFlags::ENFORCE)
        && !reach.sealed.flags.contains(SealedFlags::AGENT)
    {
        return if !scope.flags.contains(ScopeFlags::DISABLED) {
            Some(Verdict::Audit)
        } else {
            None
        };
    }
    Some(Verdict::Blocked)
}

/// An agent reaches for what it holds and for the files it delivers; for nothing else.
#[inline(always)]
fn is_agents(reach: &AccessRequest) -> bool {
    reach.tgid == 0 || sealed::HELD.get_ptr(reach.tgid).is_some()
}

#[inline(always)]
fn report(reach: &AccessRequest, verdict: Verdict) {
    let Some(mut entry) = ring::reserve::<Access>(reach.sealed.scope, reach.sealed.seal as u32)
    else {
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
        header: ring::header(RecordKind::Access, reach.tgid),
        actor,
        target,
        seal: reach.sealed.seal,
        what: reach.what as u32,
        verdict: verdict as u32,
        name: reach.name,
    });
    entry.submit(ring::NOW);
}
