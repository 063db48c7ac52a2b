//! What the kernel sides share: reading the kernel's own structures.
//!
//! Three programs are made of this crate. `kernelseal` is the sealing side, one a node; `network` and `syscalls` are
//! the monitors', one an agent, and there only while their agent asks for them.
#![no_std]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "what is not inlined is verified on its own, without the types of its arguments"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "helpers return 64 bits of which the documented part is meant"
)]

pub mod kernel;
pub mod owner;
pub mod places;
