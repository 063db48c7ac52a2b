//! The two ways to look at a field, for what is done with sockets that the verifier knows and with those it does not.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use bytemuck::AnyBitPattern;
use sidecar_common::network::TCP;

use crate::{
    kernel::{self, Load, Ptr},
    look,
};

/// One of them.
pub(crate) trait Look: Sized {
    /// A field of a structure, by the marks of its offset; see [`crate::look`].
    fn at<T: Load + AnyBitPattern, const LOADED: i16, const READ: i32>(base: Ptr) -> T;

    /// Whether a socket is one of TCP.
    #[inline(always)]
    fn is_tcp(sock: Ptr) -> bool {
        look!(Self, sock, sock_protocol as u16) == TCP
    }

    /// A socket as one of TCP, if it is.
    fn tcp(sock: Ptr) -> Option<Ptr>;
}

/// An instruction, where the verifier knows the structure's type.
pub(crate) enum Typed {}

impl Look for Typed {
    #[inline(always)]
    fn at<T: Load + AnyBitPattern, const LOADED: i16, const READ: i32>(base: Ptr) -> T {
        T::load::<LOADED>(base)
    }

    #[inline(always)]
    fn tcp(sock: Ptr) -> Option<Ptr> {
        // SAFETY: the verifier has seen that it is a socket.
        let tcp: Ptr = unsafe { bpf_skc_to_tcp_sock(sock.cast_mut().cast()) }.cast();
        (!tcp.is_null()).then_some(tcp)
    }
}

/// A helper's look, which costs as much as twenty of these.
pub(crate) enum Untyped {}

impl Look for Untyped {
    #[inline(always)]
    fn at<T: Load + AnyBitPattern, const LOADED: i16, const READ: i32>(base: Ptr) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper checks the address that it reads from, and writes so many bytes: zeros where it cannot read. (Nobody
        // asks whether it could: each answer would be another way for the verifier to follow, and 5.10 does not come to an end.)
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                base.wrapping_add(kernel::offset::<READ>()).cast(),
            );
            value.assume_init()
        }
    }

    #[inline(always)]
    fn tcp(sock: Ptr) -> Option<Ptr> {
        Self::is_tcp(sock).then_some(sock)
    }
}
