//! From where to where: both ends of a socket.

use sidecar_common::network::{Address, Ends};

use crate::{
    at,
    kernel::{Ptr, follow, read},
    look,
    looks::Look,
};

/// `AF_INET` (include/linux/socket.h)
const INET: u16 = 2;
/// `AF_INET6`
const INET6: u16 = 10;

/// An IPv4 address, in its order in memory, as IPv6 maps it.
#[inline(always)]
pub(crate) fn mapped(address: u32) -> Address {
    // (this target is little-endian: the first byte is the lowest)
    const PREFIX: u64 = 0xffff_0000;
    [0, PREFIX | (u64::from(address) << u32::BITS)]
}

/// From where to where, if it is a socket of the internet. Its own port is told apart.
#[inline(always)]
pub(crate) fn ends<L: Look>(sock: Ptr) -> Option<Ends> {
    const WORD: usize = size_of::<u64>();
    let (local, remote) = match look!(L, sock, sock_family as u16) {
        INET => (
            mapped(look!(L, sock, sock_local4 as u32)),
            mapped(look!(L, sock, sock_remote4 as u32)),
        ),
        INET6 => (
            [
                look!(L, sock, sock_local6 as u64),
                look!(L, sock.wrapping_add(WORD), sock_local6 as u64),
            ],
            [
                look!(L, sock, sock_remote6 as u64),
                look!(L, sock.wrapping_add(WORD), sock_remote6 as u64),
            ],
        ),
        _ => return None,
    };
    let net = look!(L, sock, sock_net as usize) as Ptr;
    Some(Ends {
        local,
        remote,
        local_port: 0,
        remote_port: u16::from_be(look!(L, sock, sock_remote_port as u16)),
        netns: look!(L, net, net_inum as u32),
    })
}

/// The inode number of any socket's network namespace.
#[inline(always)]
pub(crate) fn netns(sock: Ptr) -> u32 {
    read(follow(sock, at!(sock_net)), at!(net_inum))
}
