//! UDP flows: a socket and another end that exchange datagrams. Seen where a process sends them, and where one takes
//! them from its socket.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{HashMap, LruHashMap},
    helpers::generated::bpf_probe_read_kernel,
    macros::{btf_map, kprobe},
    programs::ProbeContext,
};
use sidecar_common::network::{
    ANSWER_BYTES, Answer, Begun, ConnectionFlags, Ends, LOST_CONNECTIONS, MAX_UDP_FLOWS,
    RecordKind, UDP, UdpFlow, UdpKey, WatchFlags,
};

use crate::{
    at,
    datagram::Datagram,
    filter::{self, Asked},
    kernel::{self, Ptr, follow, read},
    monitor,
    records::{self, Last, OUT},
    sockets,
};

/// What inserting an entry that is there gives (`-EEXIST`).
const EXISTS: i32 = -17;
/// The port of DNS.
const DNS: u16 = 53;

/// Those that are followed. The agent takes them out when they end.
#[btf_map]
static UDP_FLOWS: HashMap<UdpKey, UdpFlow, MAX_UDP_FLOWS> = HashMap::new();
/// Those that nobody asks for, by the settings that were in force when their first datagram was seen.
#[btf_map]
static UDP_UNWANTED: LruHashMap<UdpKey, u32, MAX_UDP_FLOWS> = LruHashMap::new();

/// An IPv4 datagram leaves its socket, with its headers written.
#[kprobe]
pub fn ip_send_skb(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg::<Ptr>(1) {
        pass(follow(skb, at!(skb_sock)), skb, true);
    }
    0
}

/// The same of IPv6.
#[kprobe]
pub fn ip6_send_skb(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg::<Ptr>(0) {
        pass(follow(skb, at!(skb_sock)), skb, true);
    }
    0
}

/// A process has taken a datagram from its socket. Nothing waits in here, other than in the call that takes it.
#[kprobe]
pub fn skb_consume_udp(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(skb), Some(taken)) =
        (ctx.arg::<Ptr>(0), ctx.arg::<Ptr>(1), ctx.arg::<i32>(2))
    {
        // (below zero: it only had a look)
        if taken >= 0 {
            pass(sock, skb, false);
        }
    }
    0
}

/// A socket of IPv4 ends.
#[kprobe]
pub fn udp_destroy_sock(ctx: ProbeContext) -> u32 {
    end(ctx.arg(0))
}

/// A socket of IPv6 ends.
#[kprobe]
pub fn udpv6_destroy_sock(ctx: ProbeContext) -> u32 {
    end(ctx.arg(0))
}

#[inline(always)]
fn end(sock: Option<Ptr>) -> u32 {
    if let Some(sock) = sock {
        sockets::end(sock, || 0);
    }
    0
}

#[inline(always)]
fn pass(sock: Ptr, skb: Ptr, is_sent: bool) {
    let Some(asked) = filter::asked_for(WatchFlags::empty()) else {
        return;
    };
    if !asked.flags.intersects(WatchFlags::TCP | WatchFlags::UDP) {
        return;
    }
    // (raw sockets and the kernel's own come this way, too)
    if read::<u16>(sock, at!(sock_protocol)) != UDP {
        return;
    }
    let datagram = Datagram::in_buffer(skb);
    let Some(ends) = datagram.ends(sock, is_sent) else {
        return;
    };
    if !is_sent && ends.remote_port == DNS.to_be() {
        tell_answer(asked, skb, datagram, ends.netns);
    }
    if !asked.flags.contains(WatchFlags::UDP) {
        return;
    }
    let key = ends.udp_key(sock as u64);
    let length = u64::from(datagram.length());
    let Some(flow) = UDP_FLOWS.get_ptr_mut(key) else {
        return begin(asked, &key, ends, is_sent, length);
    };
    // SAFETY: a live map value; the counters are only added to, and of two times either is right.
    unsafe {
        let counter = if is_sent {
            &raw mut (*flow).sent
        } else {
            &raw mut (*flow).received
        };
        kernel::add(counter, length);
        (*flow).last_ns = monitor::now();
    }
}

/// The first datagram of a flow: is it one that is asked for?
#[inline(always)]
fn begin(asked: Asked, key: &UdpKey, ends: Ends, is_sent: bool, length: u64) {
    // (before all else that they say: what is remembered as unwanted is so by these, or later ones look again)
    let generation = asked.generation();
    // SAFETY: read at once.
    if unsafe { UDP_UNWANTED.get(key) }.is_some_and(|since| *since == generation) {
        return;
    }
    let (wanted, port, flags) = if is_sent {
        (
            WatchFlags::OUTBOUND,
            u16::from_be(ends.remote_port),
            ConnectionFlags::empty(),
        )
    } else {
        (
            WatchFlags::INBOUND,
            ends.local_port,
            ConnectionFlags::INBOUND,
        )
    };
    let pid = if asked.flags.contains(wanted) && asked.admits(|| port, || ends.remote) {
        monitor::watched(asked.within())
    } else {
        None
    };
    let Some(pid) = pid else {
        // Remembered: what answers it must not be taken for a beginning.
        let _ = UDP_UNWANTED.insert(key, generation, 0);
        return;
    };
    let owner = OUT.owner(pid);
    let now = monitor::now();
    let (sent, received) = if is_sent { (length, 0) } else { (0, length) };
    let flow = UdpFlow {
        begun: Begun {
            pid,
            protocol: UDP,
            flags,
            cgroup: owner.cgroup,
            started_ns: owner.started_ns,
            comm: owner.comm,
            ends,
            since_ns: now,
        },
        last_ns: now,
        sent,
        received,
    };
    match UDP_FLOWS.insert(key, &flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        // (another thread was first, and tells)
        Err(EXISTS) => return,
        Err(_) => return OUT.count_loss(LOST_CONNECTIONS),
    }
    sockets::follow(key.socket as Ptr);
    let kind = if is_sent {
        RecordKind::Connect
    } else {
        RecordKind::Accept
    };
    let last = || Last {
        sent,
        received,
        ..Last::default()
    };
    records::tell(kind, now, key.socket as Ptr, &flow.begun, last);
}

/// What a name server answered to a watched process, where it lies in one piece.
#[inline(always)]
fn tell_answer(asked: Asked, skb: Ptr, datagram: Datagram, netns: u32) {
    let is_in_pieces = read::<u32>(skb, at!(skb_data_len)) != 0;
    if is_in_pieces || monitor::watched(asked.within()).is_none() {
        return;
    }
    let Some(mut entry) = OUT.reserve::<Answer>() else {
        return;
    };
    let answer = entry.as_mut_ptr();
    let length = usize::from(datagram.length()).min(ANSWER_BYTES) as u32;
    // SAFETY: reserved memory of this size; the helper checks the address that it reads from. What lies behind the
    // length is not written: it was in the ring before, and filling it takes a loop over bytes.
    unsafe {
        (*answer).header = monitor::header(RecordKind::Answer as u32, monitor::now());
        (*answer).netns = netns;
        (*answer).length = length;
        bpf_probe_read_kernel(
            (&raw mut (*answer).bytes).cast(),
            length,
            datagram.payload().cast(),
        );
    }
    entry.submit(0);
}
