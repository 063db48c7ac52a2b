//! From where to where: both ends of a socket.

use sidecar_common::network::{Address, Ends};

use crate::{
    at,
    kernel::{Ptr, follow, read},
    look,
    probe::Look,
};

/// Of which internet a socket is.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

impl Family {
    /// A socket's; `None` for one of something else.
    #[inline(always)]
    pub(crate) fn of<L: Look>(sock: Ptr) -> Option<Self> {
        /// (include/linux/socket.h)
        const INET: u16 = 2;
        const INET6: u16 = 10;
        match look!(L, sock, sock_family as u16) {
            INET => Some(Self::V4),
            INET6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// What stands before an IPv4 address as IPv6 maps it, behind eight zeros. (This target is little-endian: the first byte is the
/// lowest.)
const MAPPED: u32 = 0xffff_0000;

/// An IPv4 address, in its order in memory, as IPv6 maps it.
#[inline(always)]
pub(crate) fn mapped(address: u32) -> Address {
    [0, u64::from(MAPPED) | (u64::from(address) << u32::BITS)]
}

/// Writes it so in halves, of which one is the address as it is.
#[inline(always)]
fn write_mapped(to: &mut Address, address: u32) {
    to[0] = 0;
    let halves = (&raw mut to[1]).cast::<u32>();
    // SAFETY: a word has two.
    unsafe {
        halves.write(MAPPED);
        halves.add(1).write(address);
    }
}

/// Where a socket is and whom it talks to.
#[inline(always)]
pub(crate) fn addresses<L: Look>(sock: Ptr, family: Family) -> (Address, Address) {
    match family {
        Family::V4 => {
            let (local, remote) = addresses4::<L>(sock);
            (mapped(local), mapped(remote))
        }
        Family::V6 => addresses6::<L>(sock),
    }
}

/// The same of one of IPv4, in their order in memory.
#[inline(always)]
fn addresses4<L: Look>(sock: Ptr) -> (u32, u32) {
    let both = look!(L, sock, sock_addresses4 as u64);
    ((both >> u32::BITS) as u32, both as u32)
}

/// The same of one of IPv6.
#[inline(always)]
fn addresses6<L: Look>(sock: Ptr) -> (Address, Address) {
    const WORD: usize = size_of::<u64>();
    (
        [
            look!(L, sock, sock_local6 as u64),
            look!(L, sock.wrapping_add(WORD), sock_local6 as u64),
        ],
        [
            look!(L, sock, sock_remote6 as u64),
            look!(L, sock.wrapping_add(WORD), sock_remote6 as u64),
        ],
    )
}

/// A socket's ports, as [`Ends`] has them.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// The other end's.
    pub(crate) remote: u16,
    /// Its own; 0 for one that has none, or has given it back.
    pub(crate) local: u16,
}

impl Ports {
    /// Those of a socket of either internet.
    #[inline(always)]
    pub(crate) fn of<L: Look>(sock: Ptr) -> Self {
        // (this target is little-endian: the first is the lower)
        let both = look!(L, sock, sock_ports as u32);
        Self {
            remote: both as u16,
            local: (both >> u16::BITS) as u16,
        }
    }

    /// With the own port of a TCP socket also if it has given it back.
    #[inline(always)]
    pub(crate) fn kept<L: Look>(self, sock: Ptr) -> Self {
        match self.local {
            0 => Self {
                local: L::tcp(sock)
                    .map_or(0, |tcp| u16::from_be(look!(L, tcp, inet_local_port as u16))),
                ..self
            },
            _ => self,
        }
    }
}

/// Writes from where to where, but for the ports.
#[inline(always)]
pub(crate) fn write<L: Look>(ends: &mut Ends, sock: Ptr, family: Family) {
    match family {
        Family::V4 => {
            let (local, remote) = addresses4::<L>(sock);
            write_mapped(&mut ends.local, local);
            write_mapped(&mut ends.remote, remote);
        }
        Family::V6 => {
            let (local, remote) = addresses6::<L>(sock);
            // (word by word: see [`crate::records::tell`])
            for word in 0..2 {
                ends.local[word] = local[word];
                ends.remote[word] = remote[word];
            }
        }
    }
    let net = look!(L, sock, sock_net as usize) as Ptr;
    ends.netns = look!(L, net, net_inum as u32);
}

/// The inode number of any socket's network namespace.
#[inline(always)]
pub(crate) fn netns(sock: Ptr) -> u32 {
    read(follow(sock, at!(sock_net)), at!(net_inum))
}
