//! Who is sealed, and who belongs together: the maps every guard asks.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use sidecar_common::{
    layout::{MAX_HELD, MAX_SCOPES, MAX_SEALED, SEALED_FILTER_SLOTS},
    policy::{Held, Scope, ScopeFlags, ScopeId, Sealed, SealedFlags},
};

use crate::{
    guard::libraries,
    kernel::{self, Number, Ptr, load, off, read},
};

/// `-EEXIST`
const EXISTS: i32 = -17;
/// Bits of a process number (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;

#[btf_map]
pub(crate) static SCOPE_LEASES: HashMap<ScopeId, Scope, MAX_SCOPES> = HashMap::new();
/// Which scope's PID namespace a process is the first of, by its [`life`]: the namespace has ended when that process is freed.
#[btf_map]
static INITS: HashMap<u64, ScopeId, MAX_SCOPES> = HashMap::new();
#[btf_map]
static SEALED: HashMap<u32, Sealed, MAX_SEALED> = HashMap::new();
/// By process number: how many entries of `SEALED` there are. Zero spares the lookup, which nearly
/// every process on the node would pay for at every fork, exit and open in /proc.
#[btf_map]
static SEALED_FILTER: Array<u32, { SEALED_FILTER_SLOTS as usize }> = Array::new();
/// How many entries of `SEALED` there are.
#[btf_map]
static SEALED_COUNT: Array<u32, 1> = Array::new();
/// Processes whose end was dealt with, until they are freed.
#[btf_map]
static ENDED: HashMap<u64, u8, MAX_SEALED> = HashMap::new();
#[btf_map]
pub(crate) static HELD: HashMap<u32, Held, MAX_HELD> = HashMap::new();
/// How many processes carry a seal; and above that, in [`FILES`], how many folders of files it was given.
#[btf_map]
static TREES: HashMap<u64, u64, MAX_SEALED> = HashMap::new();

/// What was written of a process number, of whichever process that was.
#[inline(always)]
pub(crate) fn entry(tgid: u32) -> Option<Sealed> {
    // SAFETY: copied at once; an entry reused meanwhile carries another start time.
    unsafe { SEALED.get(tgid) }.copied()
}

/// What is known of a process number, if it is still the process it was written for.
#[inline(always)]
pub(crate) fn get(tgid: u32, start_of: impl FnOnce() -> u64) -> Option<Sealed> {
    if !may_be_sealed(tgid) {
        return None;
    }
    let sealed = entry(tgid)?;
    (!sealed.flags.contains(SealedFlags::VOID) && sealed.start_ns == start_of()).then_some(sealed)
}

/// What is known of a task that may just be coming into being: its number is visible before the
/// fork's tracepoint has passed its parent's seal on, and until it first runs the kernel marks it.
#[inline(always)]
pub(crate) fn get_with_newborn(task: Ptr, tgid: u32) -> Option<Sealed> {
    // In this order: a task that is no longer new has its own entry by now.
    let state: u32 = read(task, off!(task_state));
    get(tgid, || kernel::start_of(task)).or_else(|| get_of_newborn(task, state))
}

/// The same of a task whose type the verifier knows.
#[inline(always)]
pub(crate) fn get_typed_with_newborn(task: Ptr, tgid: u32) -> Option<Sealed> {
    let state: u32 = load!(task, task_state);
    get(tgid, || kernel::start_of_typed(task)).or_else(|| get_of_newborn(task, state))
}

#[inline(always)]
fn get_of_newborn(task: Ptr, state: u32) -> Option<Sealed> {
    /// `TASK_NEW` (include/linux/sched.h)
    const NEW: u32 = 0x800;
    if state & NEW == 0 {
        return None;
    }
    let parent = kernel::follow(task, off!(task_parent));
    let inherited = get(read(parent, off!(task_tgid)), || kernel::start_of(parent))?;
    (!inherited.flags.contains(SealedFlags::EXECING)).then_some(inherited)
}

/// False for most processes that are not sealed; never for one that is.
#[inline(always)]
pub(crate) fn may_be_sealed(tgid: u32) -> bool {
    SEALED_FILTER
        .get(tgid % SEALED_FILTER_SLOTS)
        .is_none_or(|entries| *entries != 0)
}

/// Seals a process, or seals it anew.
#[inline(always)]
pub(crate) fn put(tgid: u32, sealed: &Sealed) -> Result<(), i32> {
    // Counted before it is there: the filter must never be behind.
    count(tgid, 1);
    if SEALED.insert(tgid, sealed, u64::from(BPF_NOEXIST)).is_ok() {
        return Ok(());
    }
    if SEALED.insert(tgid, sealed, u64::from(BPF_EXIST)).is_ok() {
        count(tgid, u32::MAX);
        return Ok(());
    }
    // (that of an earlier process of this number, which is being freed)
    let put = SEALED.insert(tgid, sealed, u64::from(BPF_NOEXIST));
    if put.is_err() {
        count(tgid, u32::MAX);
    }
    put
}

/// Changes the flags of the running process's seal, which only itself writes while it executes: without the new entry that
/// [`put`] makes.
#[inline(always)]
pub(crate) fn set_flags(tgid: u32, flags: SealedFlags) {
    if let Some(entry) = SEALED.get_ptr_mut(tgid) {
        // SAFETY: a live map value.
        unsafe { (*entry).flags = flags };
    }
}

/// Takes a process off the map.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    if SEALED.remove(tgid).is_ok() {
        count(tgid, u32::MAX);
    }
}

/// Notes that a process's end is dealt with; false if it was before. (Inserting is the one thing that of two that do it at
/// once one alone does, on 5.10 too.)
#[inline(always)]
pub(crate) fn end_once(tgid: u32, start_ns: u64) -> bool {
    ENDED.insert(life(tgid, start_ns), 1, u64::from(BPF_NOEXIST)) != Err(EXISTS)
}

/// The same when the process is freed: false if its end was dealt with.
#[inline(always)]
pub(crate) fn end_at_last(tgid: u32, start_ns: u64) -> bool {
    ENDED.remove(life(tgid, start_ns)).is_err()
}

/// Names a process among all that ever have its number, as long as the number's next holder takes less than an hour.
#[inline(always)]
fn life(tgid: u32, start_ns: u64) -> u64 {
    start_ns << PID_BITS | u64::from(tgid)
}

/// Whether so few places are left, or fewer.
#[inline(always)]
pub(crate) fn has_only(places: u32) -> bool {
    SEALED_COUNT
        .get(0)
        .is_none_or(|count| *count >= MAX_SEALED as u32 - places)
}

#[inline(always)]
fn count_in_filter(tgid: u32, n: u32) {
    if let Some(entries) = SEALED_FILTER.get_ptr_mut(tgid % SEALED_FILTER_SLOTS) {
        // SAFETY: a live map value.
        unsafe { kernel::add32(entries, n) };
    }
}

#[inline(always)]
fn count(tgid: u32, n: u32) {
    count_in_filter(tgid, n);
    if let Some(entries) = SEALED_COUNT.get_ptr_mut(0) {
        // SAFETY: a live map value.
        unsafe { kernel::add32(entries, n) };
    }
}

/// The same for the process that runs.
#[inline(always)]
pub(crate) fn current() -> Option<Sealed> {
    get(kernel::current_tgid(), kernel::own_start)
}

/// A scope's owner and policy.
#[inline(always)]
pub(crate) fn scope(id: ScopeId) -> Option<Scope> {
    // SAFETY: copied at once; a scope's entry is only rewritten for the same namespace.
    unsafe { SCOPE_LEASES.get(id) }.copied()
}

/// What holds where a scope's entry is missing: everything is guarded, and nothing starts.
pub(crate) const STRICT: Scope = Scope {
    agent_start_ns: 0,
    init_start_ns: 0,
    agent: 0,
    init: 0,
    flags: ScopeFlags::all()
        .difference(ScopeFlags::SELF_READ)
        .difference(ScopeFlags::AUDIT_ALL)
        .difference(ScopeFlags::DISABLED)
        .difference(ScopeFlags::FAIL_OPEN),
    agent_pid: 0,
};

/// Begins to watch for the end of the PID namespace whose process 1 this is; false where there is no room to remember it.
#[inline(always)]
pub(crate) fn await_end_of(scope: ScopeId, init: u32, init_start_ns: u64) -> bool {
    let life = life(init, init_start_ns);
    // Counted before it is there: the filter must never be behind.
    count_in_filter(init, 1);
    match INITS.insert(life, scope, u64::from(BPF_NOEXIST)) {
        Ok(()) => true,
        Err(e) => {
            count_in_filter(init, u32::MAX);
            e == EXISTS
        }
    }
}

/// A process is freed. Where it was process 1 of a scope's PID namespace, all that lived there is gone, and the scope
/// ends: its namespace's number is free to be another's.
#[inline(always)]
pub(crate) fn end_namespace_of(tgid: u32, start_ns: u64) {
    let life = life(tgid, start_ns);
    // SAFETY: copied at once.
    let Some(id) = (unsafe { INITS.get(life) }).copied() else {
        return;
    };
    if scope(id).is_some_and(|scope| scope.init == tgid && scope.init_start_ns == start_ns) {
        let _ = SCOPE_LEASES.remove(id);
    }
    if INITS.remove(life).is_ok() {
        count_in_filter(tgid, u32::MAX);
    }
}

/// Whether the running process is the scope's agent, and not another that has its number by now.
#[inline(always)]
pub(crate) fn is_agent_of(scope: &Scope) -> bool {
    kernel::current_tgid() == scope.agent && kernel::own_start() == scope.agent_start_ns
}

/// Whether the running process is an agent or an agent's helper.
#[inline(always)]
pub(crate) fn is_agent() -> bool {
    current().is_some_and(|actor| actor.flags.contains(SealedFlags::AGENT))
}

/// Whether the running process is a neighbour of the scope's agent: it lives in the agent's pod, and is
/// not the agent or its helper. Without the scope's entry everybody who lives there is one.
#[inline(always)]
pub(crate) fn is_neighbour(id: ScopeId) -> bool {
    scope(id).is_none_or(|scope| scope.flags.contains(ScopeFlags::POD))
        && number_in(kernel::own_pid(), id) != 0
        && !current()
            .is_some_and(|actor| actor.flags.contains(SealedFlags::AGENT) && actor.scope == id)
}

/// The scope that answers for a process, and the process's number in it: those of the closest PID
/// namespace that has one.
#[inline(always)]
pub(crate) fn scope_of(pid: Ptr) -> Option<(Number, Scope)> {
    let packed = closest_scope(pid as u64);
    if packed == 0 {
        return None;
    }
    let number = Number {
        namespace: (packed >> 32) as u32,
        nr: packed as u32,
    };
    // (an entry that has gone since is none that lets go)
    Some((number, scope_or_strict(number.namespace)))
}

/// A scope's owner and policy; [`STRICT`] where its entry is missing.
#[inline(always)]
pub(crate) fn scope_or_strict(id: ScopeId) -> Scope {
    scope(id).unwrap_or(STRICT)
}

/// The process's number as the scope's agent sees it; 0 when it does not.
#[inline(always)]
pub(crate) fn number_in(pid: Ptr, scope: ScopeId) -> u32 {
    number_in_scope(pid as u64, scope)
}

// Exported functions with scalar arguments are verified once, not at every call: 5.6.

/// [`scope_of`]'s walk: the scope in the upper half, the number in the lower; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn closest_scope(pid: u64) -> u64 {
    kernel::closest(pid as Ptr, |id, namespace| {
        SCOPE_LEASES.get_ptr(id).is_some_and(|scope| {
            // SAFETY: a live map value.
            unsafe { (*scope).init_start_ns == kernel::start_of_init(namespace) }
        })
    })
    .map_or(0, |number| {
        (u64::from(number.namespace) << 32) | u64::from(number.nr)
    })
}

/// [`number_in`]'s walk.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn number_in_scope(pid: u64, scope: u32) -> u32 {
    kernel::closest(pid as Ptr, |id, _| id == scope).map_or(0, |number| number.nr)
}

/// One folder of files, in an entry of `TREES`.
const FILES: u64 = 1 << 32;

/// What is left of a tree.
pub(crate) struct Left {
    /// Nobody.
    pub(crate) is_empty: bool,
    /// There may be files that are to be taken away.
    pub(crate) has_files: bool,
}

/// A tree is given files.
#[inline(always)]
pub(crate) fn tree_has_files(seal: u64) {
    if let Some(count) = TREES.get_ptr_mut(seal) {
        // SAFETY: a live map value.
        unsafe { kernel::add(count, FILES) };
    }
}

/// A new tree of one.
#[inline(always)]
pub(crate) fn tree_begin(seal: u64) -> Result<(), i32> {
    TREES.insert(seal, 1, 0)
}

/// One more in the tree.
#[inline(always)]
pub(crate) fn tree_join(seal: u64) {
    if let Some(count) = TREES.get_ptr_mut(seal) {
        // SAFETY: a live map value.
        unsafe { kernel::add(count, 1) };
    }
}

/// One less in the tree. Two that leave at once may both hear that nobody is left.
#[inline(always)]
pub(crate) fn tree_leave(seal: u64) -> Left {
    let Some(count) = TREES.get_ptr_mut(seal) else {
        return Left {
            is_empty: true,
            has_files: true,
        };
    };
    // SAFETY: a live map value; the add is atomic and the read comes after it.
    let left = unsafe {
        kernel::add(count, u64::MAX);
        core::ptr::read_volatile(count)
    };
    let is_empty = left % FILES == 0;
    if is_empty {
        let _ = TREES.remove(seal);
        libraries::forget(seal);
    }
    Left {
        is_empty,
        has_files: left >= FILES,
    }
}
