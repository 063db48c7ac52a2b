//! What is fed to each parser of kernelseal, and what must hold whatever it was.
//!
//! `kernelseal` is a program, not a library: its parsers are included here as they are. The fuzz targets in `fuzz/` feed them by
//! chance; `tests/seeds.rs` what is known, and a little chance, with every `cargo test`.

// The modules that are included bring unit tests, which are run where they belong.
#![cfg(not(test))]

pub mod config;
pub mod manifest;
pub mod mountinfo;
pub mod names;
pub mod proc;
pub mod ring;
pub mod stack;

#[expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "not everything in there is about parsing"
)]
mod parsers;
