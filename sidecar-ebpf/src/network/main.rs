//! The network monitor's kernel side: who connects to whom. Loaded by an agent that asks for it, and gone with it.
//!
//! [`tcp`] follows connections by their sockets' states, [`udp`] flows by their datagrams, and [`unix`] tells who connects
//! within the machine. A state may change while some other process runs, so the owner is asked once, where the process
//! itself is at work, and remembered by the socket. No hook here is a system call's: io_uring and the kernel's own users are seen like everybody else.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "what is not inlined is verified on its own, without the types of its arguments"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "helpers return 64 bits of which the documented part is meant"
)]

mod connections;
mod datagram;
mod ends;
mod filter;
mod probe;
mod records;
mod sockets;
mod tcp;
mod udp;
mod unix;

use sidecar_ebpf::{kernel, monitor};

sidecar_ebpf::object!();
sidecar_ebpf::own_level!();

/// A field's offset, of those that only this program reads; see [`kernel::off`].
macro_rules! at {
    ($field:ident) => {
        $crate::kernel::offset::<
            {
                sidecar_common::network::NETWORK_OFFSET_IN_IMMEDIATE
                    + core::mem::offset_of!(sidecar_common::network::NetworkOffsets, $field) as i32
            },
        >()
    };
}
pub(crate) use at;

/// Such a field itself, looked at in either way.
macro_rules! look {
    ($look:ty, $base:expr, $field:ident as $kind:ty) => {
        <$look as $crate::probe::Look>::at::<
            $kind,
            {
                sidecar_common::network::NETWORK_OFFSET_IN_LOAD
                    + core::mem::offset_of!(sidecar_common::network::NetworkOffsets, $field) as i16
            },
            {
                sidecar_common::network::NETWORK_OFFSET_IN_IMMEDIATE
                    + core::mem::offset_of!(sidecar_common::network::NetworkOffsets, $field) as i32
            },
        >($base)
    };
}
pub(crate) use look;
