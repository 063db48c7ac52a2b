//! Sockets of which the agent wants to hear when they are gone: it knows their flows, and tells what became of them.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use sidecar_common::network::{Gone, MAX_SOCKETS, RecordKind};

use crate::{kernel::Ptr, monitor, records::OUT};

#[btf_map]
static SOCKETS: LruHashMap<u64, u32, MAX_SOCKETS> = LruHashMap::new();

/// Its end is to be told of.
#[inline(always)]
pub(crate) fn follow(sock: Ptr) {
    let _ = SOCKETS.insert(sock as u64, 1, 0);
}

/// This is it; of a Unix socket its inode's number is told, too.
#[inline(always)]
pub(crate) fn end(sock: Ptr, inode: impl FnOnce() -> u64) {
    if SOCKETS.remove(sock as u64).is_ok()
        && let Some(mut entry) = OUT.reserve::<Gone>()
    {
        entry.write(Gone {
            header: monitor::header(RecordKind::Gone as u32, monitor::now()),
            socket: sock as u64,
            inode: inode(),
        });
        entry.submit(0);
    }
}
