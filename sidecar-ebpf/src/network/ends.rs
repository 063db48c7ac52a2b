//! From where to where: both ends of a socket.

use bytemuck::Pod;
use sidecar_common::network::{Address, COMMON_BYTES, Ends};

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

/// What all kinds of sockets have in common (`struct sock_common`), as far as it tells of both ends: one copy costs little
/// more than one field.
#[derive(Clone, Copy)]
pub(crate) struct Common([u64; COMMON_BYTES / 8]);

impl Common {
    #[inline(always)]
    pub(crate) fn of(sock: Ptr) -> Self {
        Self(read(sock, 0))
    }

    /// A field of it.
    #[inline(always)]
    fn field<T: Pod>(&self, offset: usize) -> T {
        // SAFETY: the loader has made sure that all of it is within; the verifier does, too.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<T>().read() }
    }

    /// From where to where, if it is of the internet.
    #[inline(always)]
    pub(crate) fn ends(&self, local_port: u16) -> Option<Ends> {
        let (local, remote) = match self.field::<u16>(at!(sock_family)) {
            INET => (
                mapped(self.field(at!(sock_local4))),
                mapped(self.field(at!(sock_remote4))),
            ),
            INET6 => (self.field(at!(sock_local6)), self.field(at!(sock_remote6))),
            _ => return None,
        };
        let net: u64 = self.field(at!(sock_net));
        Some(Ends {
            local,
            remote,
            local_port,
            remote_port: u16::from_be(self.field(at!(sock_remote_port))),
            netns: read(net as usize as Ptr, at!(net_inum)),
        })
    }
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
