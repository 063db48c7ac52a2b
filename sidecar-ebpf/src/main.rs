//! The kernel side of kernelseal: one set of programs a node, shared by every agent on it.
//!
//! Read [`exec`] for how a program is matched, sealed and held, [`lineage`] for how a seal is
//! inherited and ends, [`guard`] for who is refused what.
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

mod agent;
mod exec;
mod guard;
mod lineage;
mod names;
mod provenance;
mod report;
mod ring;
mod sealed;

use sidecar_ebpf::kernel;

sidecar_ebpf::object!();
