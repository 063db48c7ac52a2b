//! Records out, and what was not told.

use core::ptr;

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, RingBuf},
    macros::btf_map,
};
use sidecar_common::{
    monitor,
    network::{Begun, Flow, LOST_COUNTERS, RING_BYTES, RecordKind},
};
use sidecar_ebpf::{
    kernel::Ptr,
    monitor::{AtHand, Maps, Shared, header},
};

#[btf_map]
static RECORDS: RingBuf<(), RING_BYTES> = RingBuf::new();
#[btf_map]
static LOST: Array<u64, LOST_COUNTERS> = Array::new();
#[btf_map]
static PLACES_TOLD: LruHashMap<u64, u32, { monitor::PLACES_TOLD }> = LruHashMap::new();
static PLACES_AT_HAND: Shared<AtHand> = Shared::zeroed();

/// All of them.
pub(crate) const OUT: Maps<RING_BYTES, LOST_COUNTERS> = Maps {
    records: &RECORDS,
    lost: &LOST,
    places_told: &PLACES_TOLD,
    places_at_hand: &PLACES_AT_HAND,
};

/// Tells of a connection. What is known `last` is looked up last, where it is written.
///
/// Word by word: what is copied or cleared at once is done so by a loop over bytes, which costs much, here and in the verifier.
#[inline(always)]
pub(crate) fn tell(
    kind: RecordKind,
    time_ns: u64,
    sock: Ptr,
    begun: &Begun,
    last: impl FnOnce() -> Last,
) {
    const WORDS: usize = size_of::<Begun>() / size_of::<u64>();
    let Some(mut entry) = OUT.reserve::<Flow>() else {
        return;
    };
    let flow = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size; every field is written before it is submitted. (Volatile: two zeros side by side
    // would be written by a loop, too.)
    unsafe {
        (*flow).header = header(kind as u32, time_ns);
        let from = ptr::from_ref(begun).cast::<u64>();
        let to = (&raw mut (*flow).begun).cast::<u64>();
        for word in 0..WORDS {
            to.add(word).write(from.add(word).read_volatile());
        }
        (*flow).socket = sock as u64;
        let last = last();
        (&raw mut (*flow).sent).write_volatile(last.sent);
        (&raw mut (*flow).received).write_volatile(last.received);
        (*flow).error = last.error;
        (*flow).retransmits = last.retransmits;
    }
    entry.submit(0);
}

/// What is known of a connection when it is told of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Last {
    pub(crate) error: u32,
    pub(crate) retransmits: u32,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}
