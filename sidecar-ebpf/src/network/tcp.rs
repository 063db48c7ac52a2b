//! TCP connections, by what becomes of their sockets' states.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use sidecar_common::network::{
    ABORTED, CONNECTION_COMING, CONNECTION_INBOUND, KIND_ACCEPT, KIND_CLOSE, KIND_CONNECT,
    LOST_CONNECTIONS, TCP, WATCH_INBOUND, WATCH_OUTBOUND, WATCH_TCP,
};

use crate::{
    connections::Place,
    ends, filter,
    kernel::{self, Ptr},
    look,
    looks::{Look, Typed, Untyped},
    monitor,
    records::{self, Begun, Last, OUT},
};

/// The states we act on (include/net/tcp_states.h).
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;

/// The bit of `SOCK_DONE` (include/net/sock.h): the other end sends no more.
const DONE: u64 = 1 << 1;

/// A socket changes its state. Who runs is who did it only for what `connect` does itself.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sock: Ptr = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    match (old, new) {
        (_, SYN_SENT) => begin(sock),
        // (SYN_RECV: both ends began at once)
        (SYN_SENT | SYN_RECV, ESTABLISHED) => establish(sock),
        (_, CLOSE) => end(sock),
        _ => {}
    }
    0
}

/// A socket that `accept` made becomes its caller's. The only thing in the way of every accept, by whatever call or
/// library, that is entered where the new socket is there and its owner runs, and does not wait.
#[fentry(function = "security_sock_graft")]
pub fn security_sock_graft(ctx: FEntryContext) -> i32 {
    accept::<Typed>(ctx.arg(0));
    0
}

/// The same where as many have come before as a function takes of the kind above.
#[kprobe]
pub fn security_sock_graft_probe(ctx: ProbeContext) -> u32 {
    if let Some(sock) = ctx.arg::<Ptr>(0) {
        accept::<Untyped>(sock);
    }
    0
}

/// The local port, also of a socket that has given it back.
#[inline(always)]
fn local_port<L: Look>(tcp: Ptr) -> u16 {
    u16::from_be(look!(L, tcp, inet_local_port as u16))
}

/// What a connection has counted.
#[inline(always)]
fn counted<L: Look>(tcp: Ptr) -> Last {
    let resent = look!(L, tcp, tcp_resent as u64);
    // The other end's FIN counts as a byte.
    let is_done = look!(L, tcp, sock_flags as u64) & DONE != 0;
    Last {
        error: 0,
        retransmits: look!(L, tcp, tcp_retransmits as u32),
        sent: look!(L, tcp, tcp_sent as u64).wrapping_sub(resent),
        received: look!(L, tcp, tcp_received as u64).wrapping_sub(is_done.into()),
    }
}

#[inline(always)]
fn begin(sock: Ptr) {
    let Some(settings) = filter::asked_for(WATCH_TCP | WATCH_OUTBOUND) else {
        return;
    };
    if Typed::tcp(sock).is_none() {
        return;
    }
    let Some(ends) = ends::ends::<Typed>(sock) else {
        return;
    };
    if !filter::admits(&settings, &ends, ends.remote_port) {
        return;
    }
    let Some(owner) = OUT.owner(&settings.within) else {
        return;
    };
    let connection = Begun {
        owner,
        ends,
        // (of an attempt nobody is told how long it took)
        since_ns: 0,
        protocol: TCP,
        flags: CONNECTION_COMING,
    };
    follow(sock, &connection);
}

/// From here on it is followed, where there is a place for it.
#[inline(always)]
fn follow(sock: Ptr, connection: &Begun) -> Option<Place> {
    let place = Place::take(sock);
    match place {
        Some(mut place) => place.connection().set(connection),
        None => OUT.count_loss(LOST_CONNECTIONS),
    }
    place
}

#[inline(always)]
fn establish(sock: Ptr) {
    let Some(mut place) = Place::of(sock) else {
        return;
    };
    let connection = place.connection();
    if connection.flags & CONNECTION_COMING == 0 {
        return;
    }
    let Some(tcp) = Typed::tcp(sock) else {
        return;
    };
    let now = monitor::now();
    connection.flags = 0;
    connection.since_ns = now;
    tell(KIND_CONNECT, now, tcp, connection, Last::default());
}

#[inline(always)]
fn accept<L: Look>(sock: Ptr) {
    let Some(settings) = filter::asked_for(WATCH_TCP | WATCH_INBOUND) else {
        return;
    };
    // (the hook is for sockets of every family)
    let Some(ends) = ends::ends::<L>(sock) else {
        return;
    };
    let Some(tcp) = L::tcp(sock) else {
        return;
    };
    let local_port = local_port::<L>(tcp);
    if !filter::admits(&settings, &ends, local_port) {
        return;
    }
    let Some(owner) = OUT.owner(&settings.within) else {
        return;
    };
    let now = monitor::now();
    let connection = Begun {
        owner,
        ends,
        since_ns: now,
        protocol: TCP,
        flags: CONNECTION_INBOUND,
    };
    let place = follow(sock, &connection);
    let socket = kernel::untyped(sock as u64);
    let tell = |kind, last| records::tell(kind, now, socket, &connection, local_port, last);
    tell(KIND_ACCEPT, Last::default());
    // The other end may have broken it off before it was accepted; then no state is to come.
    if i32::from(look!(L, sock, sock_state as u8)) == CLOSE
        && let Some(place) = place
    {
        tell(KIND_CLOSE, counted::<L>(tcp));
        place.leave();
    }
}

#[inline(always)]
fn end(sock: Ptr) {
    let Some(mut place) = Place::of(sock) else {
        return;
    };
    let connection = place.connection();
    if let Some(tcp) = Typed::tcp(sock) {
        let (kind, last) = if connection.flags & CONNECTION_COMING == 0 {
            (KIND_CLOSE, counted::<Typed>(tcp))
        } else {
            let error = look!(Typed, sock, sock_error as u32);
            let last = Last {
                error: if error == 0 { ABORTED } else { error },
                retransmits: look!(Typed, tcp, tcp_retransmits as u32),
                ..Last::default()
            };
            (KIND_CONNECT, last)
        };
        tell(kind, monitor::now(), tcp, connection, last);
    }
    place.leave();
}

/// (A socket's own port may be chosen after its connection has begun.)
#[inline(always)]
fn tell(kind: u32, now: u64, tcp: Ptr, connection: &Begun, last: Last) {
    let socket = kernel::untyped(tcp as u64);
    let local_port = local_port::<Typed>(tcp);
    records::tell(kind, now, socket, connection, local_port, last);
}
