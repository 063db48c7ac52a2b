//! A program starts: is its name one that an agent asked for ([`names`])? Then it is sealed and held
//! before its first instruction.
//!
//! Two hooks. `bprm_creds_for_exec` sees the file that was asked for (a script, not yet its
//! interpreter) and can still refuse the exec. `sched_process_exec` runs when the new image is in
//! place and the task has not returned to user space.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    helpers::{
        bpf_probe_read_kernel_str_bytes,
        generated::{
            bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_send_signal, bpf_send_signal_thread,
        },
    },
    macros::{btf_map, btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext, RawTracePointContext},
};
use sidecar_common::{
    event::{
        REASON_HELD_FULL, REASON_HOOK_SILENT, REASON_NO_AGENT, REASON_NOTE_LOST, REASON_OTHER_FILE,
        REASON_SEALED_FULL,
    },
    layout::{EXEC_SLOTS, MAX_HELD, SEALED_FOR_FORKS},
    policy::{
        HELD_COMING, HELD_CONTINUED, HELD_OWN_NAME, HELD_SCRIPT, HELD_SEIZED, HELD_TRACED,
        HELD_WAIVED, HELD_WRITABLE, Held, MAX_COMING_NS, SCOPE_FAIL_OPEN, SEALED_EXECING,
        SEALED_NOTED, SEALED_ROOT, Sealed,
    },
};

use crate::{
    kernel::{self, Number, Ptr, follow, load, load_text, off, read},
    lineage, names, provenance, report, ring, sealed,
};

/// The kernel's own (include/linux/errno.h): begin the system call anew, whatever the signal.
const ERESTARTNOINTR: i64 = 513;
const SIGKILL: u32 = 9;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
/// What waits for an agent that dies waits on so long after it came, for the guardian, which ends it and says so.
const WITHOUT_AGENT_NS: u64 = 10_000_000_000;
/// Of `task_struct.ptrace`: the tracer has the task stop at the event of an exec (`PT_TRACE_EXEC`, include/linux/ptrace.h).
const STOPS_AT_EXEC: u32 = 1 << 7;

/// How many agents want every exec reported.
#[btf_map]
static ALL_EXECS: Array<u32, 1> = Array::new();
/// What the first hook found, for the second, by process. LRU: an exec that fails in between leaves
/// its entry behind. Should so many be left behind that one is lost that is still to be read,
/// [`SEALED_NOTED`] tells.
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

/// Device and inode of a file.
#[inline(always)]
fn identity(file: Ptr) -> (u32, u64) {
    let inode = follow(file, off!(file_inode));
    let dev = read(follow(inode, off!(inode_sb)), off!(sb_dev));
    (dev, read(inode, off!(inode_ino)))
}

/// Whether somebody may write to a file that is executed: its count of writers is below zero while the kernel
/// keeps them out (`deny_write_access`, include/linux/fs.h).
#[inline(always)]
fn is_writable(file: Ptr) -> bool {
    read::<i32>(follow(file, off!(file_inode)), off!(inode_writers)) >= 0
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
        forget_failed(tgid);
        coming = coming_by(tgid, kernel::start_of(kernel::current()))
            .filter(|held| held.kernels_thread() == kernel::current_pid());
    }
    let path = load_text!(bprm, bprm_filename);
    let file: Ptr = load!(bprm, bprm_file);
    let dentry: Ptr = load!(file, file_dentry);
    if coming.is_none() && !names::may_be_asked_for(path, dentry) {
        return 0;
    }
    let pid = kernel::pid_of(kernel::current());
    let Some((number, scope)) = sealed::scope_of(pid) else {
        return 0;
    };
    let name = match names::asked_for(path, dentry, number.namespace) {
        Some(name) => name,
        // An agent that ends asks for nothing any more, and still delivers to who came before.
        None => match coming {
            Some(held) if identity(file) == (held.file_dev, held.file_ino) => {
                held.name.as_ptr() as u64
            }
            _ => return 0,
        },
    };
    let start_ns = kernel::start_of(kernel::current());
    if scope.agent == 0 {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if coming.is_some_and(|held| {
            held.flags & HELD_WAIVED == 0 && now < held.since_ns + WITHOUT_AGENT_NS
        }) {
            return begin_anew(tgid, start_ns);
        }
        // nobody would release it: do not hold
        let_go(tgid, start_ns);
        if scope.flags & SCOPE_FAIL_OPEN != 0 {
            return 0;
        }
        return kernel::eperm();
    }
    // Guarded from here on: in between, the new memory would be open to whoever is quick.
    // (the same for all tries of one exec)
    let seal = coming.map_or_else(|| new_seal(tgid), |held| held.seal);
    let earlier = sealed::get(tgid, || start_ns);
    if earlier.is_none() && sealed::has_only(SEALED_FOR_FORKS) {
        report::refused(number, tgid, REASON_SEALED_FULL, name as Ptr);
        return kernel::eperm();
    }
    let mut noted = earlier.unwrap_or(Sealed {
        seal,
        start_ns,
        scope: number.namespace,
        flags: SEALED_EXECING,
    });
    noted.flags |= SEALED_NOTED;
    if sealed::put(tgid, &noted).is_err() {
        report::refused(number, tgid, REASON_SEALED_FULL, name as Ptr);
        return kernel::eperm();
    }
    if PENDING.insert(tgid, &NOTHING_YET, 0).is_err() {
        return kernel::eperm();
    }
    let Some(pending) = PENDING.get_ptr_mut(tgid) else {
        return kernel::eperm();
    };
    // SAFETY: a live map value that only this task's two hooks use.
    let pending = unsafe { &mut *pending };
    (pending.file_dev, pending.file_ino) = identity(file);
    // (until the exec is there; then it is what the field is for)
    pending.cgroup = follow(file, off!(file_inode)) as u64;
    pending.seal = seal;
    pending.start_ns = start_ns;
    pending.scope = number.namespace;
    pending.pid = number.nr;
    pending.own_pid = kernel::own_number(pid).nr;
    // SAFETY: the helper checks the address.
    pending.name_len = unsafe { bpf_probe_read_kernel_str_bytes(name as Ptr, &mut pending.name) }
        .map_or(0, |name| name.len() as u32);
    wait_for_agent(kernel::current(), tgid, pending, scope.agent)
}

/// Microseconds and the process's number (22 bits, `PID_MAX_LIMIT`): unique while somebody carries it.
#[inline(always)]
fn new_seal(tgid: u32) -> u64 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_ktime_get_ns() } >> 10 << 22) | u64::from(tgid)
}

/// Whether the agent is attached to a task, to have it stop at its exec. From here to the end of the exec that stays so: to
/// attach takes `cred_guard_mutex`, which the exec has.
#[inline(always)]
fn is_seized_by(agent: u32, tracing: u32, task: Ptr) -> bool {
    let tracer = || read::<u32>(follow(task, off!(task_tracer)), off!(task_tgid));
    tracing & STOPS_AT_EXEC != 0 && tracer() == agent
}

/// A stop by a signal would show: the parent hears of it by `SIGCHLD` and by `waitpid`, and a shell takes its terminal
/// back. So the agent attaches before the exec, and has the program stop at the exec's event, of which nobody else hears.
/// Until it is attached the system call starts over, again and again: the program before stands still,
/// this one has not begun, and whatever may end or preempt a process still may.
#[inline(always)]
fn wait_for_agent(task: Ptr, tgid: u32, pending: &mut Held, agent: u32) -> i32 {
    let tracing: u32 = read(task, off!(task_ptrace));
    let thread = kernel::current_pid();
    if let Some(held) = coming_by(tgid, pending.start_ns) {
        if held.flags & HELD_WAIVED != 0 {
            // the agent gave up, and by its policy the program starts without
            let_go(tgid, pending.start_ns);
            return 0;
        }
        if held.kernels_thread() != thread {
            // another thread waits already: what this one begins would not have its tracer
            return kernel::eperm();
        }
        if is_seized_by(agent, tracing, task) {
            return 0;
        }
        if tracing != 0 {
            // somebody else was first, and it is stopped as what is traced is
            let _ = sealed::HELD.remove(tgid);
            return 0;
        }
        // SAFETY: the helper has no preconditions.
        if unsafe { bpf_ktime_get_ns() } > held.since_ns + MAX_COMING_NS {
            let_go(tgid, pending.start_ns);
            return kernel::eperm();
        }
    } else {
        // What is traced cannot be attached to, and what the kernel starts itself begins no system call anew: both are
        // stopped after their exec.
        if tracing != 0 || follow(task, off!(task_mm)).is_null() {
            return 0;
        }
        pending.flags = HELD_COMING;
        if read::<u64>(task, off!(task_blocked)) & (1 << (SIGCONT - 1)) != 0 {
            pending.flags |= HELD_CONTINUED;
        }
        let number = sealed::number_in(follow(task, off!(task_thread_pid)), pending.scope);
        pending.stack = Held::of_thread(thread, number);
        // SAFETY: the helper has no preconditions.
        pending.since_ns = unsafe { bpf_ktime_get_ns() };
        if sealed::HELD.insert(tgid, &*pending, 0).is_err() {
            return 0; // and then there is no place for it either
        }
        report::held(pending.scope, tgid);
    }
    begin_anew(tgid, pending.start_ns)
}

/// A file is opened to be executed. What its program waits for already, it waits for here from then on: the exec has cost less so
/// far, and does not stand in its own agent's way (it has `cred_guard_mutex` for a moment only, and since 6.8 not yet). Where
/// there is something to decide, [`bprm_creds_for_exec`] does.
#[inline(never)]
pub(crate) fn open(file: Ptr) -> i32 {
    let tgid = kernel::current_tgid();
    if !sealed::may_be_sealed(tgid) {
        return 0;
    }
    let task = kernel::current();
    let start_ns = kernel::start_of(task);
    let Some(held) = coming_by(tgid, start_ns) else {
        return 0;
    };
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let waits = held.flags & HELD_WAIVED == 0
        && held.kernels_thread() == kernel::current_pid()
        && read::<u32>(task, off!(task_ptrace)) == 0
        && now < held.since_ns + MAX_COMING_NS
        && identity(file) == (held.file_dev, held.file_ino)
        && sealed::scope(held.scope).is_some_and(|scope| scope.agent != 0);
    if waits { begin_anew(tgid, start_ns) } else { 0 }
}

/// What is known of a process that waits for its agent before an exec.
#[inline(always)]
fn coming_by(tgid: u32, start_ns: u64) -> Option<&'static Held> {
    // SAFETY: a live map value; its agent only replaces it.
    let held = unsafe { sealed::HELD.get(tgid) };
    held.filter(|held| held.flags & HELD_COMING != 0 && held.start_ns == start_ns)
}

/// A system call starts over where a signal is pending that comes to nothing. A stop that is
/// taken back is one: it leaves the task marked, and no parent hears of it. To this thread alone: another
/// might take the stop before it is taken back.
#[inline(always)]
fn begin_anew(tgid: u32, start_ns: u64) -> i32 {
    // SAFETY: the helper has no preconditions; the signals are for the running task.
    if unsafe { bpf_send_signal_thread(SIGSTOP) != 0 || bpf_send_signal_thread(SIGCONT) != 0 } {
        let_go(tgid, start_ns);
        return kernel::eperm();
    }
    kernel::error::<ERESTARTNOINTR>()
}

/// An exec that failed behind the first hook left its note: it must not vouch for the next. One a
/// process will do: `cred_guard_mutex` lets its threads exec one at a time.
#[inline(always)]
fn forget_failed(tgid: u32) {
    let now = sealed::get(tgid, || kernel::start_of(kernel::current()));
    if let Some(now) = now.filter(|now| now.flags & SEALED_NOTED != 0) {
        forget_note(tgid, now);
    }
}

#[inline(always)]
fn forget_note(tgid: u32, mut now: Sealed) {
    let _ = PENDING.remove(tgid);
    now.flags &= !SEALED_NOTED;
    let _ = sealed::put(tgid, &now);
}

/// Takes back what was noted of an exec, and the seal that was only for the time of it.
#[inline(always)]
fn let_go(tgid: u32, start_ns: u64) {
    let _ = sealed::HELD.remove(tgid);
    let Some(now) = sealed::get(tgid, || start_ns) else {
        return;
    };
    forget_note(tgid, now);
    if now.flags & SEALED_EXECING != 0 {
        sealed::forget(tgid);
    }
}

/// Seals and holds what the first hook noted, where tracepoints may be missed: since 7.0 their
/// programs can be preempted, and one that is started meanwhile on the same CPU is skipped. Hooks
/// are not. Attached only there.
#[lsm(hook = "bprm_committed_creds")]
pub fn bprm_committed_creds(ctx: LsmContext) -> i32 {
    take_pending(kernel::current_tgid(), ctx.arg(0));
    0
}

/// Seals and holds what the first hook noted.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task: Ptr = ctx.arg(0);
    let bprm: Ptr = ctx.arg(2);
    let tgid: u32 = load!(task, task_tgid);
    let is_watched = take_pending(tgid, bprm) || finish_hold(task, tgid);
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
    if scope.flags & SCOPE_FAIL_OPEN != 0 {
        return 0;
    }
    let Some(name) = names::asked_for(path, dentry, number.namespace) else {
        return 0;
    };
    kill(
        tgid,
        kernel::start_of(task),
        number,
        REASON_HOOK_SILENT,
        name as Ptr,
    );
    1
}

/// Holds what the first hook noted of this process; false if it noted nothing.
#[inline(always)]
fn take_pending(tgid: u32, bprm: Ptr) -> bool {
    // the first hook has sealed what it noted
    if !sealed::may_be_sealed(tgid) {
        return false;
    }
    let task = kernel::current();
    let Some(pending) = PENDING.get_ptr_mut(tgid) else {
        return without_note(task, tgid);
    };
    // SAFETY: a live map value that only this process's exec uses.
    let pending = unsafe { &mut *pending };
    // One of an earlier process of this number, whose exec failed, is not about this one.
    if pending.start_ns != kernel::start_of(task) {
        return without_note(task, tgid);
    }
    hold(task, tgid, bprm, pending);
    let _ = PENDING.remove(tgid);
    true
}

/// An exec of which there is no note. One that was noted does not start: the note is lost. Any other ends what the
/// exec before it, which failed or was given up, has left; false for that.
#[inline(always)]
fn without_note(task: Ptr, tgid: u32) -> bool {
    let Some(now) = sealed::get(tgid, || kernel::start_of(task)) else {
        return false;
    };
    if now.flags & SEALED_NOTED != 0 {
        let number = Number {
            namespace: now.scope,
            nr: sealed::number_in(kernel::pid_of(task), now.scope),
        };
        let comm = task.wrapping_add(off!(task_comm));
        kill(tgid, now.start_ns, number, REASON_NOTE_LOST, comm);
        return true;
    }
    // A handler of a signal, or another thread, may have executed this instead of what the agent was coming for. It is told,
    // for it may be attached.
    // SAFETY: a live map value; its agent only replaces it.
    if let Some(held) = unsafe { sealed::HELD.get(tgid) }
        && held.flags & HELD_COMING != 0
    {
        let scope = held.scope;
        let _ = sealed::HELD.remove(tgid);
        report::held(scope, tgid);
    }
    if now.flags & SEALED_EXECING != 0 {
        sealed::forget(tgid);
    }
    false
}

/// Enters what was not there yet when the program was held in the middle of its exec; false if it
/// is not held.
#[inline(always)]
fn finish_hold(task: Ptr, tgid: u32) -> bool {
    if off!(exit_keeps_memory) == 0 || !sealed::may_be_sealed(tgid) {
        return false;
    }
    let Some(held) = sealed::HELD.get_ptr_mut(tgid) else {
        return false;
    };
    let mm: Ptr = load!(task, task_mm);
    // SAFETY: a live map value; its agent does not write it while it waits for the record below.
    let (flags, scope) = unsafe {
        (*held).stack = load!(mm, mm_start_stack);
        ((*held).flags, (*held).scope)
    };
    if flags & HELD_SEIZED != 0 {
        report::held(scope, tgid);
    }
    true
}

/// Seals and holds what was noted; what that comes to nothing for does not start.
#[inline(always)]
fn hold(task: Ptr, tgid: u32, bprm: Ptr, pending: &mut Held) {
    // (in one place: the verifier follows each)
    if let Err(reason) = try_to_hold(task, tgid, bprm, pending) {
        refuse(tgid, pending, reason);
    }
}

/// The same; why it does not start.
#[inline(always)]
fn try_to_hold(task: Ptr, tgid: u32, bprm: Ptr, pending: &mut Held) -> Result<(), u32> {
    // (zero in the middle of an exec; then the tracepoint enters it, or the agent looks it up)
    pending.stack = read(follow(task, off!(task_mm)), off!(mm_start_stack));
    let cred = follow(task, off!(task_cred));
    pending.uid = read(cred, off!(cred_euid));
    pending.gid = read(cred, off!(cred_egid));
    let asked_for = pending.cgroup;
    // SAFETY: the helper has no preconditions.
    pending.cgroup = unsafe { bpf_get_current_cgroup_id() };
    // Its agent may have ended since the first hook, and nobody would release it. Where it ended in
    // order, with nothing sealed, the scope is gone, and programs start as if it had not been there.
    let agent = match sealed::scope(pending.scope) {
        Some(scope) if scope.agent != 0 => scope.agent,
        Some(scope) if scope.flags & SCOPE_FAIL_OPEN == 0 => {
            return Err(REASON_NO_AGENT);
        }
        _ => {
            let_go(tgid, pending.start_ns);
            return Ok(());
        }
    };
    // SAFETY: the helper has no preconditions.
    pending.since_ns = unsafe { bpf_ktime_get_ns() };
    let tracing: u32 = read(task, off!(task_ptrace));
    // (one whose agent is gone again is held like any other)
    let mut is_seized = is_seized_by(agent, tracing, task);
    let mut is_continued = 0;
    match coming_by(tgid, pending.start_ns) {
        Some(held) => {
            pending.since_ns = held.since_ns;
            is_continued = held.flags & HELD_CONTINUED;
        }
        None => is_seized = false,
    }

    // What runs is another file only if it came by an interpreter.
    let file: Ptr = load!(bprm, bprm_file);
    let is_script = identity(file) != (pending.file_dev, pending.file_ino);
    if is_script && load_text!(bprm, bprm_interp) == load_text!(bprm, bprm_filename) {
        return Err(REASON_OTHER_FILE);
    }
    if is_script {
        // (without it the agent goes by the numbers alone)
        let _ = SCRIPTS.insert(pending.seal, asked_for, 0);
    }
    let dentry: Ptr = load!(file, file_dentry);
    let own_name = names::hash_name(load_text!(dentry, dentry_name));
    let has_own_name = provenance::is_named(dentry)
        && own_name == names::hash_name(kernel::untyped(pending.name.as_ptr() as u64));
    pending.flags = Held::flags_of(provenance::of_executed(kernel::untyped(file as u64)))
        | if has_own_name { HELD_OWN_NAME } else { 0 }
        | if is_script { HELD_SCRIPT } else { 0 }
        | if is_writable(file) { HELD_WRITABLE } else { 0 }
        | is_continued
        | match (is_seized, tracing != 0) {
            (true, _) => HELD_SEIZED,
            (false, true) => HELD_TRACED,
            (false, false) => 0,
        };

    // A sealed process that becomes another sealed program leaves its first tree, but not before that is sure.
    (
        pending.earlier_seal,
        pending.earlier_scope,
        pending.earlier_flags,
    ) = (0, 0, 0);
    if let Some(now) = sealed::get(tgid, || pending.start_ns)
        && now.flags & SEALED_EXECING == 0
    {
        let earlier = match sealed::HELD.get_ptr(tgid) {
            // It is held already, and executes the next: of what it was held for nothing has come.
            // SAFETY: a live map value.
            Some(held) if unsafe { (*held).seal } == now.seal => {
                let comm = task.wrapping_add(off!(task_comm));
                lineage::leave(&now, tgid, pending.pid, 0, comm);
                // SAFETY: as above.
                unsafe { lineage::earlier_of(&*held) }
            }
            _ => now,
        };
        pending.earlier_seal = earlier.seal;
        pending.earlier_scope = earlier.scope;
        pending.earlier_flags = earlier.flags & !SEALED_NOTED;
    }
    let sealed = Sealed {
        seal: pending.seal,
        start_ns: pending.start_ns,
        scope: pending.scope,
        flags: SEALED_ROOT,
    };
    // The seal last: what finds no room dies with the one it had, and leaves that tree.
    if sealed::tree_begin(pending.seal).is_err() {
        return Err(REASON_SEALED_FULL);
    }
    if sealed::HELD.insert(tgid, &*pending, 0).is_err() {
        sealed::tree_leave(pending.seal);
        return Err(REASON_HELD_FULL);
    }
    if sealed::put(tgid, &sealed).is_err() {
        let _ = sealed::HELD.remove(tgid);
        sealed::tree_leave(pending.seal);
        return Err(REASON_SEALED_FULL);
    }
    ring::count(pending.scope, |c| &raw mut c.held);
    if is_seized {
        // It stops at this exec's event. In the middle of the exec that is still to come, and told of there: [`finish_hold`].
        if off!(exit_keeps_memory) == 0 {
            report::held(pending.scope, tgid);
        }
        return Ok(());
    }
    // SAFETY: the helper has no preconditions; the signal is for the running task.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        return Err(REASON_HELD_FULL);
    }
    report::held(pending.scope, tgid);
    Ok(())
}

/// A program of which all is known does not start.
#[inline(always)]
fn refuse(tgid: u32, pending: &Held, reason: u32) {
    let number = Number {
        namespace: pending.scope,
        nr: pending.pid,
    };
    kill(
        tgid,
        pending.start_ns,
        number,
        reason,
        pending.name.as_ptr().cast(),
    );
}

/// What the kernel side itself cannot hold does not start.
#[inline(always)]
fn kill(tgid: u32, start_ns: u64, number: Number, reason: u32, name: Ptr) {
    // SAFETY: the helper has no preconditions; the signal is for the running task.
    unsafe { bpf_send_signal(SIGKILL) };
    report::refused(number, tgid, reason, name);
    // (once: the next hook of this exec finds no note)
    if let Some(now) = sealed::get(tgid, || start_ns) {
        forget_note(tgid, now);
    }
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
