//! Records out: a reservation in the ring of the scope it is for, or a count of the loss.

use aya_ebpf::{
    btf_maps::{HashMap, HashOfMaps, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use sidecar_common::{
    event::Header,
    layout::{MAX_SCOPES, RING_BYTES},
    policy::{Counters, ScopeId},
};

// `()`: bpftool and libbpf refuse a ring with a value type; records are typed when reserved.
type Ring = RingBuf<(), RING_BYTES>;

#[btf_map]
static RINGS: HashOfMaps<ScopeId, Ring, MAX_SCOPES> = HashOfMaps::new();
#[btf_map]
static COUNTERS: HashMap<ScopeId, Counters, MAX_SCOPES> = HashMap::new();

/// Room for a record in the scope's ring. `None`: no agent listens, or its ring is full and the
/// loss is counted.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(scope: ScopeId) -> Option<RingBufEntry<T>> {
    // SAFETY: an inner ring stays alive for the run of the program (RCU); entries are never reused
    // for another scope without the agent that removed them being gone.
    let ring = unsafe { RINGS.get(&scope) }?;
    let entry = ring.reserve_untyped::<T>(0);
    if entry.is_none() {
        count(scope, |c| &raw mut c.dropped);
    }
    entry
}

/// Adds one to a counter of the scope.
#[inline(always)]
pub(crate) fn count(scope: ScopeId, field: impl FnOnce(&mut Counters) -> *mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(scope) {
        // SAFETY: the pointer is a live map value; the counter is only ever added to, atomically.
        unsafe { crate::kernel::add(field(&mut *counters), 1) };
    }
}

/// Whether anything was ever held in the scope since its agent came.
#[inline(always)]
pub(crate) fn has_held(scope: ScopeId) -> bool {
    // SAFETY: read at once.
    unsafe { COUNTERS.get(scope) }.is_some_and(|counters| counters.held != 0)
}

/// A record's head, stamped now.
#[inline(always)]
pub(crate) fn header(kind: u32, tgid: u32) -> Header {
    Header {
        kind,
        tgid,
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
    }
}
