//! Records out, and what was not told.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, RingBuf},
    macros::btf_map,
};
use sidecar_common::{
    monitor,
    syscall::{LOST_COUNTERS, RING_BYTES},
};
use sidecar_ebpf::monitor::{AtHand, Maps, Shared};

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
