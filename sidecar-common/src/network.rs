//! What crosses the kernel boundary of the network monitor: its settings, who owns a connection, its records.
//!
//! None of it is pinned: an agent and its own kernel side are always of one build, so this is not part of
//! [`crate::layout::LAYOUT_VERSION`]'s contract.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};
use num_enum::TryFromPrimitive;

use crate::{
    event::Header,
    monitor::{Comm, KIND_PLACE, Owner, Within},
};

/// Bytes of the monitor's ring buffer; a power-of-two number of pages.
pub const RING_BYTES: usize = 1024 * 1024;
/// TCP connections that are followed at one time whose sockets' addresses fall together.
pub const CONNECTIONS_TOGETHER: usize = 16;
/// Bits of a number that tells which these are. (With half of all places taken, one in a thousand connections finds none; with a
/// quarter, one in millions. One more, and they would be more than an object's own memory may have on 5.10, 4 MiB.)
pub const CONNECTION_BITS: u32 = 11;
/// UDP flows that are followed at one time.
pub const MAX_UDP_FLOWS: usize = 16_384;
/// Sockets of UDP flows and of Unix connections that are known at one time.
pub const MAX_SOCKETS: usize = 32_768;
/// Networks that a filter may name.
pub const MAX_CIDRS: usize = 1_024;
/// Words of the bit field that has a bit for every port.
pub const PORT_WORDS: usize = 65_536 / 64;
/// Bytes of a DNS answer that are looked at: what fits without EDNS.
pub const ANSWER_BYTES: usize = 512;

/// Bytes of a Unix socket's name that are looked at: more than it can have (`struct sockaddr_un` has 110, include/uapi/linux/un.h).
pub const UNIX_NAME_BYTES: usize = 128;

/// Where the running kernel keeps the fields that only this monitor reads; see [`crate::layout::Offsets`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct NetworkOffsets {
    /// `sock.__sk_common.skc_family`
    pub sock_family: u32,
    /// `sock.__sk_common.skc_state`
    pub sock_state: u32,
    /// `sock.__sk_common.skc_portpair`: the remote port, in network order, and behind it the local one, in the machine's; 0 for none
    pub sock_ports: u32,
    /// `sock.__sk_common.skc_addrpair`: both IPv4 addresses, in network order, the remote one first
    pub sock_addresses4: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    pub sock_local6: u32,
    /// `sock.__sk_common.skc_v6_daddr`
    pub sock_remote6: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sock_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `sock.sk_socket`: null for one that is nobody's
    pub sock_socket: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `sock.sk_err`
    pub sock_error: u32,
    /// `sock.__sk_common.skc_flags`
    pub sock_flags: u32,
    /// `inet_sock.inet_sport`: the local port, in network order, which outlives the other
    pub inet_local_port: u32,
    /// `tcp_sock.bytes_sent`, with those that were sent again
    pub tcp_sent: u32,
    /// `tcp_sock.bytes_retrans`
    pub tcp_resent: u32,
    /// `tcp_sock.bytes_received`
    pub tcp_received: u32,
    /// `tcp_sock.total_retrans`
    pub tcp_retransmits: u32,
    /// `sock.sk_peer_pid`: who is at the other end of a Unix socket
    pub sock_peer: u32,
    /// `socket.sk`
    pub socket_sock: u32,
    /// `socket_alloc.vfs_inode`, which lies behind the `socket`
    pub socket_inode: u32,
    /// `unix_sock.addr`: null for one without a name
    pub unix_name: u32,
    /// `unix_address.len`
    pub unix_name_length: u32,
    /// `unix_address.name`
    pub unix_name_bytes: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.sk`
    pub skb_sock: u32,
    /// `sk_buff.len`
    pub skb_len: u32,
    /// `sk_buff.data_len`
    pub skb_data_len: u32,
    /// `sk_buff.network_header`
    pub skb_network: u32,
    /// `sk_buff.transport_header`
    pub skb_transport: u32,
}

/// As [`crate::layout::OFFSET_IN_LOAD`], for [`NetworkOffsets`].
pub const NETWORK_OFFSET_IN_LOAD: i16 = 0x7800;
/// As [`crate::layout::OFFSET_IN_IMMEDIATE`], for [`NetworkOffsets`].
pub const NETWORK_OFFSET_IN_IMMEDIATE: i32 = 0x4b54_0000;

/// What the agent asks of the kernel side. It may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Settings {
    /// Whose processes are watched.
    pub within: Within,
    /// What is watched.
    pub flags: WatchFlags,
    /// Another number for every change.
    pub generation: u32,
}

bitflags! {
    /// What is watched.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
    pub struct WatchFlags: u32 {
        /// TCP connections.
        const TCP = 1 << 0;
        /// UDP flows.
        const UDP = 1 << 1;
        /// What watched processes begin.
        const OUTBOUND = 1 << 2;
        /// What others begin with them.
        const INBOUND = 1 << 3;
        /// Connections by Unix sockets.
        const UNIX = 1 << 6;
        /// Only ports whose bit is set.
        const ONLY_PORTS = 1 << 4;
        /// Only remote ends in the networks that are listed.
        const ONLY_CIDRS = 1 << 5;
    }
}

/// The bytes of an IPv6 address, in two words as memory has them. (Bytes would be copied by a loop, which costs the
/// verifier much.) An IPv4 address is written as IPv6 maps it, `::ffff:a.b.c.d`.
pub type Address = [u64; 2];

/// Both ends of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Ends {
    /// The watched process's.
    pub local: Address,
    /// The other.
    pub remote: Address,
    /// The other's port, in network order: so sockets have it, and are compared by it.
    pub remote_port: u16,
    /// The watched process's, in the machine's order.
    pub local_port: u16,
    /// The inode number of the network namespace.
    pub netns: u32,
}

/// How a connection began.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Begun {
    /// Who began or accepted it; see [`Owner`].
    pub pid: u32,
    /// `IPPROTO_TCP`, `IPPROTO_UDP`
    pub protocol: u16,
    /// How it stands.
    pub flags: ConnectionFlags,
    /// See [`Owner`].
    pub cgroup: u64,
    /// See [`Owner`].
    pub started_ns: u64,
    /// See [`Owner`].
    pub comm: Comm,
    /// From where to where.
    pub ends: Ends,
    /// Since when, on the monotonic clock, in nanoseconds.
    pub since_ns: u64,
}

impl Begun {
    /// Who began or accepted it.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        Owner {
            pid: self.pid,
            reserved: 0,
            cgroup: self.cgroup,
            started_ns: self.started_ns,
            comm: self.comm,
        }
    }
}

bitflags! {
    /// How a connection stands.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct ConnectionFlags: u16 {
        /// It was begun by somebody else.
        const INBOUND = 1 << 0;
        /// Its outcome is still to come.
        const PENDING = 1 << 1;
    }
}

/// `IPPROTO_TCP`
pub const TCP: u16 = 6;
/// `IPPROTO_UDP`
pub const UDP: u16 = 17;

/// Which UDP flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct UdpKey {
    /// The socket's address in the kernel.
    pub socket: u64,
    /// The other end.
    pub remote: Address,
    /// Its port.
    pub local_port: u16,
    /// The other end's, as [`Ends`] has it.
    pub remote_port: u16,
    /// Zero.
    pub reserved: u32,
}

/// A UDP flow that is followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpFlow {
    /// Its first datagram.
    pub begun: Begun,
    /// When one last passed.
    pub last_ns: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// What a record of the network monitor is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromPrimitive)]
pub enum RecordKind {
    /// A connection was begun by a watched process, or could not be: [`Flow`].
    Connect = 1,
    /// A watched process accepted one: [`Flow`].
    Accept = 2,
    /// One ended: [`Flow`].
    Close = 3,
    /// A UDP socket with flows, or a Unix socket with a connection, is gone: [`Gone`].
    Gone = 4,
    /// Somebody was told a name's addresses: [`Answer`].
    Answer = 5,
    /// A watched process connected by a Unix socket, or could not, or accepted such a connection: [`Unix`].
    Unix = 6,
    /// Where a control group is: [`Place`](crate::monitor::Place).
    Place = KIND_PLACE,
}

/// What became of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// `tgid` is 0.
    pub header: Header,
    /// Whose, from where to where.
    pub begun: Begun,
    /// The socket's address in the kernel.
    pub socket: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Of a CONNECT: the error's number, 0 for none; [`ABORTED`].
    pub error: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
}

/// Not an error number: its own program gave the attempt up.
pub const ABORTED: u32 = u32::MAX;

impl Ends {
    /// The key of a UDP flow between these over this socket.
    #[inline(always)]
    #[must_use]
    pub const fn udp_key(&self, socket: u64) -> UdpKey {
        UdpKey {
            socket,
            remote: self.remote,
            local_port: self.local_port,
            remote_port: self.remote_port,
            reserved: 0,
        }
    }
}

/// A connection by a Unix socket begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Unix {
    /// `tgid` is 0.
    pub header: Header,
    /// Who began or accepted it.
    pub owner: Owner,
    /// The socket's address in the kernel.
    pub socket: u64,
    /// Its inode's number.
    pub inode: u64,
    /// The inode number of the network namespace.
    pub netns: u32,
    /// The error's number, 0 for none.
    pub error: u32,
    /// Who is at the other end, by the number that the agent sees; 0 for who it does not see.
    pub peer: u32,
    /// How it stands.
    pub flags: ConnectionFlags,
    /// Bytes of the name that are here.
    pub length: u16,
    /// To where: a `struct sockaddr_un`.
    pub name: [u8; UNIX_NAME_BYTES],
}

/// The end of a UDP or Unix socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Gone {
    /// `tgid` is 0.
    pub header: Header,
    /// The socket's address in the kernel.
    pub socket: u64,
    /// The number of a Unix socket's inode; of UDP, 0.
    pub inode: u64,
}

/// An answer of a DNS server, as a watched process read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Answer {
    /// `tgid` is 0.
    pub header: Header,
    /// The inode number of the network namespace.
    pub netns: u32,
    /// Bytes of the datagram that are here.
    pub length: u32,
    /// Its first bytes.
    pub bytes: [u8; ANSWER_BYTES],
}

/// What is counted in the array `LOST` beside [`LOST_RECORDS`](crate::monitor::LOST_RECORDS): connections that were not
/// followed because too many were.
pub const LOST_CONNECTIONS: u32 = 1;
/// Counters in `LOST`.
pub const LOST_COUNTERS: usize = 2;
