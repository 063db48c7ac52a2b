//! What the first hook noted is sealed and held behind its exec.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_send_signal};
use sidecar_common::{
    event::RefusalReason,
    policy::{Held, HeldFlags, ScopeFlags, Sealed, SealedFlags},
};

use super::{
    PENDING, SCRIPTS, SIGKILL, SIGSTOP,
    coming::{coming_by, is_seized_by},
    forget_note, identity, is_writable, let_go,
};
use crate::{
    kernel::{self, Number, Ptr, load, load_text, off},
    lineage, names, provenance, report, ring, sealed,
};

/// Of `mm_struct.flags`: all memory is merged with equal pages of others (`MMF_VM_MERGE_ANY`, include/linux/mm_types.h, since
/// 6.4; an exec keeps it since 6.7). Before, nothing has that bit.
const MERGES: u64 = 1 << 30;

/// Holds what the first hook noted of the running process, whose task's type the verifier knows; false if it noted nothing.
#[inline(always)]
pub(super) fn take_pending(task: Ptr, tgid: u32, bprm: Ptr) -> bool {
    // the first hook has sealed what it noted
    if !sealed::may_be_sealed(tgid) {
        return false;
    }
    let Some(pending) = PENDING.get_ptr_mut(tgid) else {
        return without_note(task, tgid);
    };
    // SAFETY: a live map value that only this process's exec uses.
    let pending = unsafe { &mut *pending };
    // One of an earlier process of this number, whose exec failed, is not about this one.
    if pending.start_ns != kernel::start_of_typed(task) {
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
    let Some(now) = sealed::get(tgid, || kernel::start_of_typed(task)) else {
        return false;
    };
    if now.flags.contains(SealedFlags::NOTED) {
        let number = Number {
            namespace: now.scope,
            nr: sealed::number_in(kernel::pid_of(task), now.scope),
        };
        let comm = task.wrapping_add(off!(task_comm));
        kill(tgid, now.start_ns, number, RefusalReason::NoteLost, comm);
        return true;
    }
    // A handler of a signal, or another thread, may have executed this instead of what the agent was coming for. It is told,
    // for it may be attached.
    // SAFETY: a live map value; its agent only replaces it.
    if let Some(held) = unsafe { sealed::HELD.get(tgid) }
        && held.flags.contains(HeldFlags::PRE_EXEC)
    {
        let scope = held.scope;
        let _ = sealed::HELD.remove(tgid);
        report::held(scope, tgid);
    }
    if now.flags.contains(SealedFlags::EXECING) {
        sealed::forget(tgid);
    }
    false
}

/// Enters what was not there yet when the program was held in the middle of its exec; false if it
/// is not held.
#[inline(always)]
pub(super) fn finish_hold(task: Ptr, tgid: u32) -> bool {
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
    if flags.contains(HeldFlags::SEIZED) {
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
fn try_to_hold(task: Ptr, tgid: u32, bprm: Ptr, pending: &mut Held) -> Result<(), RefusalReason> {
    // (zero in the middle of an exec; then the tracepoint enters it, or the agent looks it up)
    let mm: Ptr = load!(task, task_mm);
    pending.stack = load!(mm, mm_start_stack);
    let cred: Ptr = load!(task, task_cred);
    pending.uid = load!(cred, cred_euid);
    pending.gid = load!(cred, cred_egid);
    let asked_for = pending.cgroup;
    // SAFETY: the helper has no preconditions.
    pending.cgroup = unsafe { bpf_get_current_cgroup_id() };
    // Its agent may have ended since the first hook, and nobody would release it. Where it ended in
    // order, with nothing sealed, the scope is gone, and programs start as if it had not been there.
    let agent = match sealed::scope(pending.scope) {
        Some(scope) if scope.agent != 0 => scope.agent,
        Some(scope) if !scope.flags.contains(ScopeFlags::FAIL_OPEN) => {
            return Err(RefusalReason::NoAgent);
        }
        _ => {
            let_go(tgid, pending.start_ns);
            return Ok(());
        }
    };
    // SAFETY: the helper has no preconditions.
    pending.since_ns = unsafe { bpf_ktime_get_ns() };
    let tracing: u32 = load!(task, task_ptrace);
    // (one whose agent is gone again is held like any other)
    let mut is_seized = is_seized_by(agent, tracing, task);
    let mut is_continued = HeldFlags::empty();
    match coming_by(tgid, pending.start_ns) {
        Some(held) => {
            pending.since_ns = held.since_ns;
            is_continued = held.flags & HeldFlags::CONTINUED;
        }
        None => is_seized = false,
    }

    // What runs is another file only if it came by an interpreter.
    let file: Ptr = load!(bprm, bprm_file);
    let is_script = identity(file) != (pending.file_dev, pending.file_ino);
    if is_script && load_text!(bprm, bprm_interp) == load_text!(bprm, bprm_filename) {
        return Err(RefusalReason::OtherFile);
    }
    if is_script {
        // (without it the agent goes by the numbers alone)
        let _ = SCRIPTS.insert(pending.seal, asked_for, 0);
    }
    let dentry: Ptr = load!(file, file_dentry);
    let own_name = names::hash_name(load_text!(dentry, dentry_name));
    let has_own_name = provenance::is_named(dentry)
        && own_name == names::hash_name(kernel::untyped(pending.name.as_ptr() as u64));
    pending.flags = Held::flags_of(provenance::of_executed(file))
        | if has_own_name {
            HeldFlags::OWN_NAME
        } else {
            HeldFlags::empty()
        }
        | if is_script {
            HeldFlags::SCRIPT
        } else {
            HeldFlags::empty()
        }
        | if is_writable(file) {
            HeldFlags::WRITABLE
        } else {
            HeldFlags::empty()
        }
        | if load!(mm, mm_flags as u64) & MERGES != 0 {
            HeldFlags::MERGED
        } else {
            HeldFlags::empty()
        }
        | is_continued
        | match (is_seized, tracing != 0) {
            (true, _) => HeldFlags::SEIZED,
            (false, true) => HeldFlags::TRACED,
            (false, false) => HeldFlags::empty(),
        };

    // A sealed process that becomes another sealed program leaves its first tree, but not before that is sure.
    (
        pending.earlier_seal,
        pending.earlier_scope,
        pending.earlier_flags,
    ) = (0, 0, SealedFlags::empty());
    let now = sealed::get(tgid, || pending.start_ns);
    if let Some(now) = now
        && !now.flags.contains(SealedFlags::EXECING)
    {
        let earlier = match sealed::HELD.get_ptr(tgid) {
            // It is held already, and executes the next: of what it was held for nothing has come.
            // SAFETY: a live map value.
            Some(held) if unsafe { (*held).seal } == now.seal => {
                let comm = task.wrapping_add(off!(task_comm));
                lineage::leave(&now, tgid, pending.pid, 0, comm, false);
                // SAFETY: as above.
                unsafe { lineage::earlier_of(&*held) }
            }
            _ => now,
        };
        pending.earlier_seal = earlier.seal;
        pending.earlier_scope = earlier.scope;
        pending.earlier_flags = earlier.flags & !SealedFlags::NOTED;
    }
    let sealed = Sealed {
        seal: pending.seal,
        start_ns: pending.start_ns,
        scope: pending.scope,
        flags: SealedFlags::ROOT,
    };
    // The seal last: what finds no room dies with the one it had, and leaves that tree.
    if sealed::tree_begin(pending.seal).is_err() {
        return Err(RefusalReason::SealedFull);
    }
    if sealed::HELD.insert(tgid, &*pending, 0).is_err() {
        sealed::tree_leave(pending.seal);
        return Err(RefusalReason::HeldFull);
    }
    // (nearly always it has this seal already, from its note on)
    if now.is_some_and(|now| now.seal == sealed.seal && now.scope == sealed.scope) {
        sealed::set_flags(tgid, sealed.flags);
    } else if sealed::put(tgid, &sealed).is_err() {
        let _ = sealed::HELD.remove(tgid);
        sealed::tree_leave(pending.seal);
        return Err(RefusalReason::SealedFull);
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
        return Err(RefusalReason::HeldFull);
    }
    report::held(pending.scope, tgid);
    Ok(())
}

/// A program of which all is known does not start.
#[inline(always)]
fn refuse(tgid: u32, pending: &Held, reason: RefusalReason) {
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
pub(super) fn kill(tgid: u32, start_ns: u64, number: Number, reason: RefusalReason, name: Ptr) {
    // SAFETY: the helper has no preconditions; the signal is for the running task.
    unsafe { bpf_send_signal(SIGKILL) };
    report::refused(number, tgid, reason, name);
    // (once: the next hook of this exec finds no note)
    if let Some(now) = sealed::get(tgid, || start_ns) {
        forget_note(tgid, now);
    }
}
