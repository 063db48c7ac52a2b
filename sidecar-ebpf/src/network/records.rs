//! Records out, and what was not told.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, RingBuf},
    macros::btf_map,
};
use sidecar_common::{
    monitor::{self, Owner},
    network::{Ends, Flow, LOST_COUNTERS, RING_BYTES},
};
use sidecar_ebpf::monitor::{Maps, header};

#[btf_map]
static RECORDS: RingBuf<(), RING_BYTES> = RingBuf::new();
#[btf_map]
static LOST: Array<u64, LOST_COUNTERS> = Array::new();
#[btf_map]
static PLACES_TOLD: LruHashMap<u64, u32, { monitor::PLACES_TOLD }> = LruHashMap::new();
#[btf_map]
static PLACES_AT_HAND: Array<u64, { monitor::PLACES_AT_HAND }> = Array::new();

/// All of them.
pub(crate) const OUT: Maps<RING_BYTES, LOST_COUNTERS> = Maps {
    records: &RECORDS,
    lost: &LOST,
    places_told: &PLACES_TOLD,
    places_at_hand: &PLACES_AT_HAND,
};

/// A connection's beginning: who began or accepted it, from where to where, since when.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) owner: Owner,
    pub(crate) ends: Ends,
    pub(crate) since_ns: u64,
    /// `IPPROTO_TCP`, `IPPROTO_UDP`
    pub(crate) protocol: u32,
    /// `CONNECTION_*` bits.
    pub(crate) flags: u32,
}

impl Begun {
    /// Word by word: what is copied or cleared at once is done so by a loop over bytes, which costs much, here and in the verifier.
    #[inline(always)]
    pub(crate) fn set(&mut self, from: &Self) {
        self.owner = from.owner;
        for word in 0..2 {
            self.ends.local[word] = from.ends.local[word];
            self.ends.remote[word] = from.ends.remote[word];
        }
        self.ends.remote_port = from.ends.remote_port;
        self.ends.netns = from.ends.netns;
        self.since_ns = from.since_ns;
        self.protocol = from.protocol;
        self.flags = from.flags;
    }
}

/// Tells of a connection.
#[inline(always)]
pub(crate) fn tell(
    kind: u32,
    time_ns: u64,
    socket: u64,
    connection: &Begun,
    local_port: u16,
    last: Last,
) {
    let Some(mut entry) = OUT.reserve::<Flow>() else {
        return;
    };
    let flow = entry.as_mut_ptr();
    // Word by word: what is copied or cleared at once is done so by a loop over bytes, which costs much, here and in the verifier.
    // SAFETY: reserved memory of this size; every field is written before it is submitted.
    unsafe {
        (*flow).header = header(kind, time_ns);
        let told = &raw mut (*flow).connection;
        (*told).owner = connection.owner;
        for word in 0..2 {
            (*told).ends.local[word] = connection.ends.local[word];
            (*told).ends.remote[word] = connection.ends.remote[word];
        }
        (*told).ends.local_port = local_port;
        (*told).ends.remote_port = connection.ends.remote_port;
        (*told).ends.netns = connection.ends.netns;
        (*told).since_ns = connection.since_ns;
        (*told).last_ns = time_ns;
        // (volatile: two zeros side by side would be written by a loop, too)
        (&raw mut (*told).sent).write_volatile(last.sent);
        (&raw mut (*told).received).write_volatile(last.received);
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
