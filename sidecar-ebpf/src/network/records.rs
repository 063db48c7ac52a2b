//! Records out: a reservation in the ring, or a count of the loss.

use aya_ebpf::{
    btf_maps::{Array, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use sidecar_common::{
    event::Header,
    network::{Connection, Flow, LOST_COUNTERS, LOST_RECORDS, RING_BYTES},
};

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

/// A record's head.
#[inline(always)]
pub(crate) fn header(kind: u32, time_ns: u64) -> Header {
    Header {
        kind,
        tgid: 0,
        time_ns,
    }
}

/// Tells of a connection.
#[inline(always)]
pub(crate) fn tell(kind: u32, time_ns: u64, socket: u64, connection: &Connection, last: Last) {
    let Some(mut entry) = reserve::<Flow>() else {
        return;
    };
    let flow = entry.as_mut_ptr();
    // Field by field: what is longer than 128 bytes is copied by a loop over bytes, which costs the verifier much.
    // SAFETY: reserved memory of this size; every field is written before it is submitted.
    unsafe {
        (*flow).header = header(kind, time_ns);
        let told = &raw mut (*flow).connection;
        (*told).owner = connection.owner;
        (*told).ends.local = connection.ends.local;
        (*told).ends.remote = connection.ends.remote;
        (*told).ends.local_port = connection.ends.local_port;
        (*told).ends.remote_port = connection.ends.remote_port;
        (*told).ends.netns = connection.ends.netns;
        (*told).since_ns = connection.since_ns;
        (*told).last_ns = time_ns;
        (*told).sent = last.sent;
        (*told).received = last.received;
        (*told).protocol = connection.protocol;
        (*told).flags = connection.flags;
        (*flow).socket = socket;
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
