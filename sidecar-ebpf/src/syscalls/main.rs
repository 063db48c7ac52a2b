//! The system call monitor's kernel side: what calls return, and with which arguments. Loaded by an agent that asks
//! for it, and gone with it.
//!
//! [`probes`] are attached to the functions of those calls that somebody wants to hear of, and to no others: a call
//! that nobody watches costs nothing. Where functions cannot be probed, [`points`] are attached to what every call
//! passes. Both say [`call::begin`] and [`call::end`].
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

mod call;
mod filter;
mod points;
mod probes;
mod records;
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
