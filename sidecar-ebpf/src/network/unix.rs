//! Connections between processes of one machine, by Unix sockets: who connects to which name, and who accepts there. Attached
//! only where somebody asks for them.

use aya_ebpf::{
    btf_maps::LruHashMap,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::{btf_map, kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use sidecar_common::network::{
    ConnectionFlags, LOST_CONNECTIONS, RecordKind, UNIX_NAME_BYTES, Unix, WatchFlags,
};

use crate::{
    at, ends, filter,
    kernel::{Ptr, follow, off, read},
    monitor,
    records::OUT,
    sockets,
};

/// `AF_UNIX` (include/linux/socket.h)
const UNIX: u16 = 1;
/// Threads that are asked at one time whether they may connect. Nothing waits there.
const MAX_CONNECTING: usize = 1_024;

/// Who connects to whom, by their sockets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Connecting {
    sock: u64,
    other: u64,
}

/// By thread.
#[btf_map]
static CONNECTING: LruHashMap<u64, Connecting, MAX_CONNECTING> = LruHashMap::new();

fn thread() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_pid_tgid() }
}

/// A process has found a listener with room for it. May it connect? That is the last question: if so, it has.
#[kprobe]
pub fn unix_connects(ctx: ProbeContext) -> u32 {
    let (Some(sock), Some(other)) = (ctx.arg::<Ptr>(0), ctx.arg::<Ptr>(1)) else {
        return 0;
    };
    if filter::asked_for(WatchFlags::UNIX | WatchFlags::OUTBOUND).is_some() {
        let connecting = Connecting {
            sock: sock as u64,
            other: other as u64,
        };
        let thread = thread();
        // (one that is there has had no answer that we saw)
        let is_missed = CONNECTING.get_ptr(thread).is_some();
        if CONNECTING.insert(thread, connecting, 0).is_err() || is_missed {
            OUT.count_loss(LOST_CONNECTIONS);
        }
    }
    0
}

/// This is the answer.
#[kretprobe]
pub fn unix_connected(ctx: RetProbeContext) -> u32 {
    let thread = thread();
    // SAFETY: copied at once, of its own thread.
    let Some(Connecting { sock, other }) = unsafe { CONNECTING.get(&thread) }.copied() else {
        return 0;
    };
    let _ = CONNECTING.remove(thread);
    let error = ctx.ret::<i32>().wrapping_neg().cast_unsigned();
    tell(sock as Ptr, other as Ptr, ConnectionFlags::empty(), error);
    0
}

/// A process has accepted.
#[kprobe]
pub fn unix_accepted(ctx: ProbeContext) -> u32 {
    if let Some(sock) = ctx.arg::<Ptr>(0)
        && read::<u16>(sock, at!(sock_family)) == UNIX
    {
        // (it has its listener's name, and of whom it is connected to)
        tell(sock, sock, ConnectionFlags::INBOUND, 0);
    }
    0
}

/// The last that knew a socket lets go of it.
#[kprobe]
pub fn unix_release(ctx: ProbeContext) -> u32 {
    if let Some(socket) = ctx.arg::<Ptr>(0) {
        let sock = follow(socket, at!(socket_sock));
        sockets::end(sock, || inode(socket));
    }
    0
}

/// The number of a socket's inode.
#[inline(always)]
fn inode(socket: Ptr) -> u64 {
    read(socket.wrapping_add(at!(socket_inode)), off!(inode_ino))
}

/// `named`: the socket that has the name of the listener, and what is known of the process at the other end.
#[inline(always)]
fn tell(sock: Ptr, named: Ptr, flags: ConnectionFlags, error: u32) {
    let direction = if !flags.contains(ConnectionFlags::INBOUND) {
        WatchFlags::OUTBOUND
    } else {
        WatchFlags::INBOUND
    };
    let Some(asked) = filter::asked_for(WatchFlags::UNIX | direction) else {
        return;
    };
    let Some(pid) = monitor::watched(asked.within()) else {
        return;
    };
    let owner = OUT.owner(pid);
    let Some(mut entry) = OUT.reserve::<Unix>() else {
        return;
    };
    let told = entry.as_mut_ptr();
    let name = follow(named, at!(unix_name));
    let length = read::<u32>(name, at!(unix_name_length)).min(UNIX_NAME_BYTES as u32);
    // SAFETY: reserved memory of this size; the helper checks the address that it reads from. What lies behind the length is not
    // written: it was in the ring before.
    unsafe {
        (*told).header = monitor::header(RecordKind::Unix as u32, monitor::now());
        (*told).owner = owner;
        (*told).socket = sock as u64;
        (*told).inode = inode(follow(sock, at!(sock_socket)));
        (*told).netns = ends::netns(sock);
        (*told).flags = flags;
        (*told).error = error;
        (*told).peer = monitor::number_of(follow(named, at!(sock_peer)), asked.within());
        (*told).length = length as u16;
        bpf_probe_read_kernel(
            (&raw mut (*told).name).cast(),
            length,
            name.wrapping_add(at!(unix_name_bytes)).cast(),
        );
    }
    // (before the agent hears of it)
    if error == 0 {
        sockets::follow(sock);
    }
    entry.submit(0);
}
