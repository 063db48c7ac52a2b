//! TCP connections, by what becomes of their sockets' states.

use aya_ebpf::{
    btf_maps::HashMap,
    macros::{btf_map, kprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext},
};
use sidecar_common::network::{
    ABORTED, CONNECTION_COMING, CONNECTION_INBOUND, Connection, KIND_ACCEPT, KIND_CLOSE,
    KIND_CONNECT, LOST_CONNECTIONS, MAX_CONNECTIONS, TCP, WATCH_INBOUND, WATCH_OUTBOUND, WATCH_TCP,
};

use crate::{
    at, ends, filter,
    kernel::{Ptr, read},
    monitor,
    records::{self, Last, OUT},
};

/// The states we act on (include/net/tcp_states.h).
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;

/// The bit of `SOCK_DONE` (include/net/sock.h): the other end sends no more.
const DONE: u64 = 1 << 1;

/// Those that are followed, by their sockets' addresses.
#[btf_map]
static CONNECTIONS: HashMap<u64, Connection, MAX_CONNECTIONS> = HashMap::new();

/// A socket changes its state. Who runs is who did it only for what `connect` does itself.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
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
#[kprobe]
pub fn security_sock_graft(ctx: ProbeContext) -> u32 {
    if let Some(sock) = ctx.arg::<Ptr>(0) {
        accept(sock);
    }
    0
}

#[inline(always)]
fn is_tcp(sock: Ptr) -> bool {
    u32::from(read::<u16>(sock, at!(sock_protocol))) == TCP
}

#[inline(always)]
fn begin(sock: Ptr) {
    let Some(settings) = filter::asked_for(WATCH_TCP | WATCH_OUTBOUND) else {
        return;
    };
    if !is_tcp(sock) {
        return;
    }
    // (its own port is chosen later)
    let Some(ends) = ends::ends(sock, 0) else {
        return;
    };
    if !filter::admits(&settings, &ends, ends.remote_port) {
        return;
    }
    let Some(owner) = OUT.owner(settings.scope, settings.level) else {
        return;
    };
    let connection = Connection {
        owner,
        ends,
        since_ns: monitor::now(),
        last_ns: 0,
        sent: 0,
        received: 0,
        protocol: TCP,
        flags: CONNECTION_COMING,
    };
    follow(sock, &connection);
}

/// From here on it is followed.
#[inline(always)]
fn follow(sock: Ptr, connection: &Connection) {
    if CONNECTIONS.insert(sock as u64, connection, 0).is_err() {
        OUT.count_loss(LOST_CONNECTIONS);
    }
}

#[inline(always)]
fn establish(sock: Ptr) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sock as u64) else {
        return;
    };
    // SAFETY: a live map value; a socket's state changes under its lock, so that nobody else writes.
    let connection = unsafe { &mut *connection };
    if connection.flags & CONNECTION_COMING == 0 {
        return;
    }
    let now = monitor::now();
    connection.flags = 0;
    connection.since_ns = now;
    connection.ends.local_port = ends::local_port(sock);
    records::tell(KIND_CONNECT, now, sock as u64, connection, Last::default());
}

#[inline(always)]
fn accept(sock: Ptr) {
    let Some(settings) = filter::asked_for(WATCH_TCP | WATCH_INBOUND) else {
        return;
    };
    // (the hook is for sockets of every family)
    let Some(ends) = ends::ends(sock, ends::local_port(sock)) else {
        return;
    };
    if !is_tcp(sock) || !filter::admits(&settings, &ends, ends.local_port) {
        return;
    }
    let Some(owner) = OUT.owner(settings.scope, settings.level) else {
        return;
    };
    let now = monitor::now();
    let connection = Connection {
        owner,
        ends,
        since_ns: now,
        last_ns: 0,
        sent: 0,
        received: 0,
        protocol: TCP,
        flags: CONNECTION_INBOUND,
    };
    follow(sock, &connection);
    records::tell(KIND_ACCEPT, now, sock as u64, &connection, Last::default());
    // The other end may have broken it off before it was accepted; then no state is to come.
    if i32::from(read::<u8>(sock, at!(sock_state))) == CLOSE {
        end(sock);
    }
}

#[inline(always)]
fn end(sock: Ptr) {
    let Some(connection) = CONNECTIONS.get_ptr_mut(sock as u64) else {
        return;
    };
    // SAFETY: as in `establish`.
    let connection = unsafe { &mut *connection };
    let mut last = Last {
        retransmits: read(sock, at!(tcp_retransmits)),
        ..Last::default()
    };
    let kind = if connection.flags & CONNECTION_COMING == 0 {
        let sent: u64 = read(sock, at!(tcp_sent));
        last.sent = sent.wrapping_sub(read(sock, at!(tcp_resent)));
        // The other end's FIN counts as a byte.
        let is_done = read::<u64>(sock, at!(sock_flags)) & DONE != 0;
        let received: u64 = read(sock, at!(tcp_received));
        last.received = received.wrapping_sub(u64::from(is_done));
        KIND_CLOSE
    } else {
        connection.ends.local_port = ends::local_port(sock);
        let error: u32 = read(sock, at!(sock_error));
        last.error = if error == 0 { ABORTED } else { error };
        KIND_CONNECT
    };
    records::tell(kind, monitor::now(), sock as u64, connection, last);
    let _ = CONNECTIONS.remove(sock as u64);
}
