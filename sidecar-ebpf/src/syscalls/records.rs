//! Records out: a reservation in the ring, or a count of the loss.

use aya_ebpf::{
    btf_maps::{Array, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use sidecar_common::syscall::{LOST_COUNTERS, LOST_RECORDS, RING_BYTES};

use crate::kernel;

// `()`: bpftool and libbpf refuse a ring with a value type; records are typed when reserved.
#[btf_map]
static RECORDS: RingBuf<(), RING_BYTES> = RingBuf::new();
#[btf_map]
static LOST: Array<u64, LOST_COUNTERS> = Array::new();

/// Room for a record; `None` if the ring is full, and the loss is counted.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    let entry = RECORDS.reserve_untyped::<T>(0);
    if entry.is_none() {
        count_loss(LOST_RECORDS);
    }
    entry
}

/// Counts something that will not be told.
#[inline(always)]
pub(crate) fn count_loss(of: u32) {
    if let Some(counter) = LOST.get_ptr_mut(of) {
        // SAFETY: a live map value.
        unsafe { kernel::add(counter, 1) };
    }
}

/// The monotonic clock.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
