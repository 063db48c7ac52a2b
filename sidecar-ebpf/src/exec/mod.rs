//! A program starts: is its name one that an agent asked for ([`names`])? Then it is sealed and held
//! before its first instruction.
//!
//! Two hooks. `bprm_creds_for_exec` sees the file that was asked for (a script, not yet its
//! interpreter) and can still refuse the exec. `sched_process_exec` runs when the new image is in
//! place and the task has not returned to user space.

mod coming;
mod hold;

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    helpers::{bpf_probe_read_kernel_str_bytes, generated::bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext, RawTracePointContext},
};
use sidecar_common::{
    event::RefusalReason,
    layout::{EXEC_SLOTS, MAX_HELD, SEALED_FOR_FORKS},
    policy::{Held, HeldFlags, Scope, ScopeFlags, Sealed, SealedFlags},
};

pub(crate) use self::coming::open;
use self::{
    coming::{begin_anew, coming_by, wait_for_agent},
    hold::{finish_hold, kill, take_pending},
};
use crate::{
    kernel::{self, Number, Ptr, follow, load, load_text, off},
    names, report, sealed,
};

const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;
/// What waits for an agent that dies waits on so long after it came, for the guardian, which ends it and says so.
const WITHOUT_AGENT_NS: u64 = 10_000_000_000;

/// How many agents want every exec reported.
#[btf_map]
static ALL_EXECS: Array<u32, 1> = Array::new();
/// What the first hook found, for the second, by process. LRU: an exec that fails in between leaves
/// its entry behind. Should so many be left behind that one is lost that is still to be read,
/// [`SealedFlags::NOTED`] tells.
#[btf_map]
static PENDING: LruHashMap<u32, Held, MAX_HELD> = LruHashMap::new();

/// Execs that the first hook has seen, by process: the address of what the kernel keeps of each while it lasts. Where the
/// tracepoint finds another, hooks may be switched off (security programs hang on ftrace, tracepoints do not), and it asks
/// for the program's name itself. A global, so that every exec on the node pays no more than a store and a load.
static mut SEEN: [u64; EXEC_SLOTS] = [0; EXEC_SLOTS];

#[inline(always)]
fn seen(tgid: u32) -> *mut u64 {
    (&raw mut SEEN)
        .cast::<u64>()
        .wrapping_add(tgid as usize & (EXEC_SLOTS - 1))
}

/// Scripts that were executed, by seal: their inodes' addresses. A file's numbers are not for every file system those that
/// `stat` tells (btrfs, overlays), nor one file's alone.
#[btf_map]
static SCRIPTS: LruHashMap<u64, u64, MAX_HELD> = LruHashMap::new();

/// What an entry of `PENDING` starts as; too large for the stack.
static NOTHING_YET: Held = {
    // SAFETY: `Held` is plain integers, for which zero is a value.
    unsafe { core::mem::zeroed() }
};

/// Device and inode of a file whose type the verifier knows.
#[inline(always)]
fn identity(file: Ptr) -> (u32, u64) {
    let inode: Ptr = load!(file, file_inode);
    let sb: Ptr = load!(inode, inode_sb);
    (load!(sb, sb_dev), load!(inode, inode_ino))
}

/// Whether somebody may write to a file that is executed: its count of writers is below zero while the kernel
/// keeps them out (`deny_write_access`, include/linux/fs.h).
#[inline(always)]
fn is_writable(file: Ptr) -> bool {
    let inode: Ptr = load!(file, file_inode);
    load!(inode, inode_writers as u32).cast_signed() >= 0
}

/// Notes an exec of a watched name and refuses it where nobody could deliver.
#[lsm(hook = "bprm_creds_for_exec")]
pub fn bprm_creds_for_exec(ctx: LsmContext) -> i32 {
    // An earlier program's refusal ends the chain before us (the trampoline's modify-return).
    let bprm: Ptr = ctx.arg(0);
    let tgid = kernel::current_tgid();
    // SAFETY: within the table; what two write at once, one of them does not find, and asks once more.
    unsafe { seen(tgid).write_volatile(bprm as u64) };
    let mut coming = None;
    if sealed::may_be_sealed(tgid) {
        coming = coming_by(tgid, kernel::own_start())
            .filter(|held| held.kernels_thread() == kernel::current_pid());
        if coming.is_none() {
            forget_failed(tgid);
        }
    }
    let path = load_text!(bprm, bprm_filename);
    let file: Ptr = load!(bprm, bprm_file);
    let dentry: Ptr = load!(file, file_dentry);
    if coming.is_none() && !names::may_be_asked_for(path, dentry) {
        return 0;
    }
    let (number, own_nr, scope) = if let Some(noted) = coming.and_then(numbers_of) {
        noted
    } else {
        let pid = kernel::own_pid();
        let Some((number, scope)) = sealed::scope_of(pid) else {
            if coming.is_some() {
                forget_failed(tgid);
            }
            return 0;
        };
        (number, kernel::own_nr(pid), scope)
    };
    let name = match names::asked_for(path, dentry, number.namespace) {
        Some(name) => name,
        // An agent that ends asks for nothing any more, and still delivers to who came before.
        None => match coming {
            Some(held) if identity(file) == (held.file_dev, held.file_ino) => {
                held.name.as_ptr() as u64
            }
            Some(_) => {
                // what it executes now is another program
                forget_failed(tgid);
                return 0;
            }
            None => return 0,
        },
    };
    let start_ns = kernel::own_start();
    if scope.agent == 0 {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if coming.is_some_and(|held| {
            !held.flags.contains(HeldFlags::WAIVED) && now < held.since_ns + WITHOUT_AGENT_NS
        }) {
            return begin_anew(tgid, start_ns);
        }
        // nobody would release it: do not hold
        let_go(tgid, start_ns);
        if scope.flags.contains(ScopeFlags::FAIL_OPEN) {
            return 0;
        }
        return kernel::eperm();
    }
    // Guarded from here on: in between, the new memory would be open to whoever is quick.
    // (the same for all tries of one exec)
    let seal = coming.map_or_else(|| new_seal(tgid), |held| held.seal);
    let earlier = sealed::get(tgid, || start_ns);
    if earlier.is_none() && sealed::has_only(SEALED_FOR_FORKS) {
        report::refused(number, tgid, RefusalReason::SealedFull, name as Ptr);
        return kernel::eperm();
    }
    if let Some(earlier) = earlier {
        sealed::set_flags(tgid, earlier.flags | SealedFlags::NOTED);
    } else {
        let noted = Sealed {
            seal,
            start_ns,
            scope: number.namespace,
            flags: SealedFlags::EXECING | SealedFlags::NOTED,
        };
        if sealed::put(tgid, &noted).is_err() {
            report::refused(number, tgid, RefusalReason::SealedFull, name as Ptr);
            return kernel::eperm();
        }
    }
    let Some(pending) = note_of(tgid) else {
        return kernel::eperm();
    };
    // SAFETY: a live map value that only this task's two hooks use.
    let pending = unsafe { &mut *pending };
    (pending.file_dev, pending.file_ino) = identity(file);
    // (until the exec is there; then it is what the field is for)
    pending.cgroup = kernel::untyped(load!(file, file_inode));
    pending.seal = seal;
    pending.start_ns = start_ns;
    pending.scope = number.namespace;
    pending.pid = number.nr;
    pending.own_pid = own_nr;
    pending.flags = HeldFlags::empty();
    // SAFETY: the helper checks the address.
    pending.name_len = unsafe { bpf_probe_read_kernel_str_bytes(name as Ptr, &mut pending.name) }
        .map_or(0, |name| name.len() as u32);
    wait_for_agent(tgid, pending, scope.agent)
}

/// The numbers of a process that waits for its agent, as they were when it was noted, and its scope. `None` where that has ended, or
/// where the entry was used for another process while it was read.
#[inline(always)]
fn numbers_of(held: &Held) -> Option<(Number, u32, Scope)> {
    // SAFETY: a live map value. Its agent replaces it, and the kernel then gives its place to another: so it is read in this order, and
    // whose it is before and after.
    let (before, number, own_nr, after) = unsafe {
        let whose = || {
            (
                (&raw const held.start_ns).read_volatile(),
                (&raw const held.seal).read_volatile(),
            )
        };
        let before = whose();
        let number = Number {
            namespace: (&raw const held.scope).read_volatile(),
            nr: (&raw const held.pid).read_volatile(),
        };
        let own_nr = (&raw const held.own_pid).read_volatile();
        (before, number, own_nr, whose())
    };
    let scope = sealed::scope(number.namespace)?;
    (before == after && before.0 == kernel::own_start()).then_some((number, own_nr, scope))
}

/// The running process's note, of which everything is written anew. (It has one where the system call of its exec began anew.)
#[inline(always)]
fn note_of(tgid: u32) -> Option<*mut Held> {
    if let Some(note) = PENDING.get_ptr_mut(tgid) {
        return Some(note);
    }
    PENDING.insert(tgid, &NOTHING_YET, 0).ok()?;
    PENDING.get_ptr_mut(tgid)
}

/// Microseconds and the process's number (22 bits, `PID_MAX_LIMIT`): unique while somebody carries it.
#[inline(always)]
fn new_seal(tgid: u32) -> u64 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_ktime_get_ns() } >> 10 << 22) | u64::from(tgid)
}

/// An exec that failed behind the first hook left its note: it must not vouch for the next. One a
/// process will do: `cred_guard_mutex` lets its threads exec one at a time.
#[inline(always)]
fn forget_failed(tgid: u32) {
    let now = sealed::get(tgid, kernel::own_start);
    if let Some(now) = now.filter(|now| now.flags.contains(SealedFlags::NOTED)) {
        forget_note(tgid, now);
    }
}

#[inline(always)]
fn forget_note(tgid: u32, now: Sealed) {
    let _ = PENDING.remove(tgid);
    sealed::set_flags(tgid, now.flags & !SealedFlags::NOTED);
}

/// Takes back what was noted of an exec, and the seal that was only for the time of it.
#[inline(always)]
fn let_go(tgid: u32, start_ns: u64) {
    let _ = sealed::HELD.remove(tgid);
    let Some(now) = sealed::get(tgid, || start_ns) else {
        return;
    };
    forget_note(tgid, now);
    if now.flags.contains(SealedFlags::EXECING) {
        sealed::forget(tgid);
    }
}

/// Seals and holds what the first hook noted, where tracepoints may be missed: since 7.0 their
/// programs can be preempted, and one that is started meanwhile on the same CPU is skipped. Hooks
/// are not. Attached only there.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(ctx: LsmContext) -> i32 {
    // (where it is needed, the running task has a type)
    if kernel::is_typed() {
        take_pending(kernel::typed_current(), kernel::current_tgid(), ctx.arg(0));
    }
    0
}

/// Seals and holds what the first hook noted.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let bprm: Ptr = ctx.arg(2);
    let tgid: u32 = load!(task, task_tgid);
    let is_watched = take_pending(task, tgid, bprm) || finish_hold(task, tgid);
    // SAFETY: within the table.
    let is_seen = unsafe { seen(tgid).read_volatile() } == bprm as u64;
    if is_seen {
        // (the address may be another exec's next)
        // SAFETY: as above.
        unsafe { seen(tgid).write_volatile(0) };
    } else if !is_watched {
        refuse_unseen(task, tgid, bprm);
    }
    if !is_watched && ALL_EXECS.get(0).is_some_and(|wanted| *wanted != 0) {
        report::started(task, tgid, bprm);
    }
    0
}

/// The first hook has not seen this exec. A program that an agent asks for does not start: nothing of it would be held or
/// guarded.
#[inline(never)]
fn refuse_unseen(task: Ptr, tgid: u32, bprm: Ptr) -> u32 {
    let path = load_text!(bprm, bprm_filename);
    let file: Ptr = load!(bprm, bprm_file);
    let dentry: Ptr = load!(file, file_dentry);
    if !names::may_be_asked_for(path, dentry) {
        return 0;
    }
    let Some((number, scope)) = sealed::scope_of(kernel::pid_of(task)) else {
        return 0;
    };
    if scope.flags.contains(ScopeFlags::FAIL_OPEN) {
        return 0;
    }
    let Some(name) = names::asked_for(path, dentry, number.namespace) else {
        return 0;
    };
    kill(
        tgid,
        kernel::start_of_typed(task),
        number,
        RefusalReason::HookSilent,
        name as Ptr,
    );
    1
}

/// Whether a descriptor of the caller's, an agent's, is the script that was executed when a seal was given: 1, else 0.
/// While it is open its inode stays where it is; one that was freed since the exec is another.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn is_executed(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (number, seal): (u32, u64) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: read at once.
    let Some(wanted) = (unsafe { SCRIPTS.get(seal) }) else {
        return 0;
    };
    let inode = follow(kernel::own_file(number), off!(file_inode)) as u64;
    u32::from(inode != 0 && inode == *wanted)
}
