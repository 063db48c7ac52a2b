//! TCP connections, by what becomes of their sockets' states.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use sidecar_common::network::{
    ABORTED, Begun, ConnectionFlags, LOST_CONNECTIONS, RecordKind, TCP, WatchFlags,
};

use crate::{
    connections::Place,
    ends::{self, Family, Ports},
    filter::{self, Asked},
    kernel::Ptr,
    look, monitor,
    probe::{Look, Typed, Untyped},
    records::{self, Last, OUT},
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
    // (the others, most of all changes, by two comparisons)
    if new > SYN_SENT {
        if new == CLOSE {
            end(sock);
        }
        return 0;
    }
    match (old, new) {
        (_, SYN_SENT) => begin(sock),
        (SYN_SENT, ESTABLISHED) => establish(sock),
        // (where both ends began at once; one that is yet to be accepted is nobody's)
        (SYN_RECV, ESTABLISHED) if look!(Typed, sock, sock_socket as usize) != 0 => establish(sock),
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

#[inline(always)]
fn begin(sock: Ptr) {
    let Some(asked) = filter::asked_for(WatchFlags::TCP | WatchFlags::OUTBOUND) else {
        return;
    };
    // (of an attempt nobody is told how long it took)
    follow::<Typed>(sock, asked, ConnectionFlags::PENDING, 0);
}

#[inline(always)]
fn establish(sock: Ptr) {
    let Some(mut place) = Place::of(sock) else {
        return;
    };
    let connection = place.connection();
    let ports = Ports::of::<Typed>(sock);
    if connection.flags != ConnectionFlags::PENDING || !is_of(ports, connection) {
        return;
    }
    let now = monitor::now();
    connection.flags = ConnectionFlags::empty();
    connection.since_ns = now;
    connection.ends.local_port = ports.kept::<Typed>(sock).local;
    records::tell(RecordKind::Connect, now, sock, connection, Last::default);
}

#[inline(always)]
fn accept<L: Look>(sock: Ptr) {
    let Some(asked) = filter::asked_for(WatchFlags::TCP | WatchFlags::INBOUND) else {
        return;
    };
    let now = monitor::now();
    let Some((mut place, has_port)) = follow::<L>(sock, asked, ConnectionFlags::INBOUND, now)
    else {
        return;
    };
    let connection = place.connection();
    records::tell(RecordKind::Accept, now, sock, connection, Last::default);
    // The other end may have broken it off before it was accepted; then no state is to come. (Its lock is held. One that is
    // closed has given its port back: tcp_set_state(), net/ipv4/tcp.c.)
    if !has_port && i32::from(look!(L, sock, sock_state as u8)) == CLOSE {
        close::<L>(sock, place);
    }
}

#[inline(always)]
fn end(sock: Ptr) {
    if let Some(place) = Place::of(sock) {
        close::<Typed>(sock, place);
    }
}

/// From here on it is followed, if it is asked for and there is a place for it: this, and whether it has a port.
#[inline(always)]
fn follow<L: Look>(
    sock: Ptr,
    asked: Asked,
    flags: ConnectionFlags,
    since_ns: u64,
) -> Option<(Place, bool)> {
    // (the hooks are for sockets of every family)
    let family = Family::of::<L>(sock)?;
    if !L::is_tcp(sock) {
        return None;
    }
    let is_inbound = flags.contains(ConnectionFlags::INBOUND);
    // (looked up where they are used: they would have to be kept over all that is between)
    let ports = || Ports::of::<L>(sock);
    let made_to = || {
        if is_inbound {
            ports().kept::<L>(sock).local
        } else {
            u16::from_be(ports().remote)
        }
    };
    let remote = || ends::addresses::<L>(sock, family).1;
    if !asked.admits(made_to, remote) {
        return None;
    }
    let pid = monitor::watched(asked.within())?;
    let Some(mut place) = Place::take(sock) else {
        OUT.count_loss(LOST_CONNECTIONS);
        return None;
    };
    // Field by field, where it will stay: see [`records::tell`].
    let connection = place.connection();
    let owner = OUT.owner(pid);
    connection.pid = pid;
    connection.protocol = TCP;
    connection.flags = flags;
    connection.cgroup = owner.cgroup;
    connection.started_ns = owner.started_ns;
    connection.comm = owner.comm;
    ends::write::<L>(&mut connection.ends, sock, family);
    connection.since_ns = since_ns;
    let ports = ports();
    connection.ends.remote_port = ports.remote;
    connection.ends.local_port = ports.local;
    if is_inbound {
        connection.ends.local_port = ports.kept::<L>(sock).local;
    }
    Some((place, ports.local != 0))
}

/// Whether what is known of a socket at this address is of this one: the end of one may be missed, and another be at its address.
#[inline(always)]
fn is_of(ports: Ports, connection: &Begun) -> bool {
    connection.ends.remote_port == ports.remote
}

/// It is over: what has it counted, or why did it not come about?
#[inline(always)]
fn close<L: Look>(sock: Ptr, mut place: Place) {
    let connection = place.connection();
    let ports = Ports::of::<L>(sock);
    if is_of(ports, connection)
        && let Some(tcp) = L::tcp(sock)
    {
        let now = monitor::now();
        let retransmits = || look!(L, tcp, tcp_retransmits as u32);
        if connection.flags != ConnectionFlags::PENDING {
            let passed = || {
                let retransmits = retransmits();
                let mut sent = look!(L, tcp, tcp_sent as u64);
                if retransmits != 0 {
                    sent = sent.wrapping_sub(look!(L, tcp, tcp_resent as u64));
                }
                // The other end's FIN counts as a byte.
                let is_done = look!(L, tcp, sock_flags as u64) & DONE != 0;
                Last {
                    error: 0,
                    retransmits,
                    sent,
                    received: look!(L, tcp, tcp_received as u64).wrapping_sub(is_done.into()),
                }
            };
            records::tell(RecordKind::Close, now, sock, connection, passed);
        } else {
            connection.ends.local_port = ports.kept::<L>(sock).local;
            let failed = || {
                let error = look!(L, sock, sock_error as u32);
                Last {
                    error: if error == 0 { ABORTED } else { error },
                    retransmits: retransmits(),
                    ..Last::default()
                }
            };
            records::tell(RecordKind::Connect, now, sock, connection, failed);
        }
    }
    place.leave();
}
