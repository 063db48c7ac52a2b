//! From where to where: both ends of a socket.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
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
type Common = MaybeUninit<[u64; COMMON_BYTES / 8]>;

/// From where to where, if it is a socket of the internet.
#[inline(always)]
pub(crate) fn ends(sock: Ptr, local_port: u16) -> Option<Ends> {
    let mut common = Common::uninit();
    // SAFETY: the helper checks the address that it reads from, and writes so many bytes, or zeros.
    let failed = unsafe {
        bpf_probe_read_kernel(common.as_mut_ptr().cast(), COMMON_BYTES as u32, sock.cast())
    };
    if failed != 0 {
        return None;
    }
    let (local, remote) = match field::<u16>(&common, at!(sock_family)) {
        INET => (
            mapped(field(&common, at!(sock_local4))),
            mapped(field(&common, at!(sock_remote4))),
        ),
        INET6 => (
            field(&common, at!(sock_local6)),
            field(&common, at!(sock_remote6)),
        ),
        _ => return None,
    };
    let net: u64 = field(&common, at!(sock_net));
    Some(Ends {
        local,
        remote,
        local_port,
        remote_port: u16::from_be(field(&common, at!(sock_remote_port))),
        netns: read(net as usize as Ptr, at!(net_inum)),
    })
}

/// A field of it.
#[inline(always)]
fn field<T: Pod>(common: &Common, offset: usize) -> T {
    // SAFETY: it has been written; the loader has made sure that the field is within, and the verifier does, too.
    unsafe { common.as_ptr().byte_add(offset).cast::<T>().read() }
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
