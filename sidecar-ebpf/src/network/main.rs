//! The network monitor's kernel side: who connects to whom. Loaded by an agent that asks for it, and gone with it.
//!
//! [`tcp`] follows connections by their sockets' states, [`udp`] flows by their datagrams. A state may change while
//! some other process runs, so [`owner`] is asked once, where the process itself is at work, and remembered by the
//! socket. No hook here is a system call's: io_uring and the kernel's own users are seen like everybody else.
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

mod datagram;
mod ends;
mod filter;
mod records;
mod tcp;
mod udp;
mod whose;

use core::ffi::c_void;

use sidecar_ebpf::{kernel, owner, places};

/// The level of the PID namespace of who asks: the agent. Attached nowhere; it runs for its answer, which aya's macro
/// for such programs would not give.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn own_level(_ctx: *mut c_void) -> u32 {
    owner::level_of_current()
}

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

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Helpers that read the kernel's memory are for GPL-compatible programs only; this crate is licensed
// "Apache-2.0 OR GPL-2.0-only".
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
