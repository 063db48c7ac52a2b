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
mod registers;
mod user_memory;

use sidecar_ebpf::{kernel, monitor};

sidecar_ebpf::object!();
sidecar_ebpf::own_level!();
