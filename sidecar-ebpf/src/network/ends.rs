//! From where to where: both ends of a socket.

use sidecar_common::network::{Address, Ends};

use crate::{
    at,
    kernel::{Ptr, follow, read},
};

/// `AF_INET` (include/linux/socket.h)
pub(crate) const INET: u16 = 2;
/// `AF_INET6`
pub(crate) const INET6: u16 = 10;

/// An IPv4 address, in its order in memory, as IPv6 maps it.
#[inline(always)]
pub(crate) fn mapped(address: u32) -> Address {
    // (this target is little-endian: the first byte is the lowest)
    const PREFIX: u64 = 0xffff_0000;
    [0, PREFIX | (u64::from(address) << u32::BITS)]
}

/// A socket's, if it is of the internet.
#[inline(always)]
pub(crate) fn of_socket(sock: Ptr) -> Option<Ends> {
    let (local, remote) = match read::<u16>(sock, at!(sock_family)) {
        INET => (
            mapped(read(sock, at!(sock_local4))),
            mapped(read(sock, at!(sock_remote4))),
        ),
        INET6 => (read(sock, at!(sock_local6)), read(sock, at!(sock_remote6))),
        _ => return None,
    };
    Some(Ends {
        local,
        remote,
        local_port: local_port(sock),
        remote_port: u16::from_be(read(sock, at!(sock_remote_port))),
        netns: netns(sock),
    })
}

/// The local port, also of a socket that has given it back.
#[inline(always)]
pub(crate) fn local_port(sock: Ptr) -> u16 {
    u16::from_be(read(sock, at!(inet_local_port)))
}

/// The inode number of a socket's network namespace.
#[inline(always)]
pub(crate) fn netns(sock: Ptr) -> u32 {
    read(follow(sock, at!(sock_net)), at!(net_inum))
}
