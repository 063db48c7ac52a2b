//! Records out: a reservation in the ring of the scope it is for, or a count of the loss.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE},
    btf_maps::{HashMap, HashOfMaps, RingBuf},
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_query},
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use sidecar_common::{
    event::{Header, RecordKind},
    layout::{MAX_SCOPES, MAX_WORKERS, RING_BYTES},
    policy::{Counters, RingKey, ScopeId},
};

// Whose size is that of an agent's only ring: where there are several, they are smaller (`bpf_map_meta_equal` does not compare
// sizes of rings). `()`: bpftool and libbpf refuse a ring with a value type; records are typed when reserved.
type Ring = RingBuf<(), RING_BYTES>;

#[btf_map]
static RINGS: HashOfMaps<RingKey, Ring, { MAX_SCOPES * MAX_WORKERS }> = HashOfMaps::new();
#[btf_map]
static COUNTERS: HashMap<ScopeId, Counters, MAX_SCOPES> = HashMap::new();

/// The ring by which a scope's agent hears of a process, or of a seal.
#[inline(always)]
fn ring_for(scope: ScopeId, number: u32) -> Option<&'static Ring> {
    // SAFETY: an inner ring stays alive for the run of the program (RCU); entries are never reused
    // for another scope without the agent that removed them being gone.
    let own = unsafe { RINGS.get(&RingKey::new(scope, number)) };
    if own.is_some() {
        return own;
    }
    // SAFETY: as above.
    unsafe { RINGS.get(&RingKey::first(scope)) }
}

/// Room for a record in one of the scope's rings; `number` is that of the process it is about, or the seal. `None`: no agent
/// listens, or the ring is full and the loss is counted.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(scope: ScopeId, number: u32) -> Option<RingBufEntry<T>> {
    let ring = ring_for(scope, number)?;
    let entry = ring.reserve_untyped::<T>(0);
    if entry.is_none() {
        count(scope, |c| &raw mut c.dropped);
    }
    entry
}

/// How a record that the agent is to hear of now is submitted: it is woken even where it has not read what came before
/// ([`IN_PASSING`]), which the kernel takes for an agent that is reading.
pub(crate) const NOW: u64 = BPF_RB_FORCE_WAKEUP as u64;
/// How one is submitted that the agent may hear of with the next, or when it looks.
const IN_PASSING: u64 = BPF_RB_NO_WAKEUP as u64;
/// Which part of a ring may be full of those.
const PART_IN_PASSING: u64 = 4;

/// How a record is submitted that may be told in passing; where its ring is filling the agent is woken.
#[inline(always)]
pub(crate) fn in_passing(scope: ScopeId, number: u32) -> u64 {
    let Some(ring) = ring_for(scope, number) else {
        return NOW;
    };
    let ring = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: a ring that lives for the run of the program.
    let (waiting, size) = unsafe {
        (
            bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA as u64),
            bpf_ringbuf_query(ring, BPF_RB_RING_SIZE as u64),
        )
    };
    if waiting < size / PART_IN_PASSING {
        IN_PASSING
    } else {
        NOW
    }
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
pub(crate) fn header(kind: RecordKind, tgid: u32) -> Header {
    Header {
        kind: kind as u32,
        tgid,
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
    }
}
