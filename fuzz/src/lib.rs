//! What is fed to each parser of kernelseal, and what must hold whatever it was.
//!
//! `kernelseal` is a program, not a library: its parsers are included here as they are.

pub mod config;
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
