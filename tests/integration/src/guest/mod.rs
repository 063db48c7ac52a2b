//! The host's side of a guest: what goes into it, how it is booted and how its verdict comes back.

pub mod args;
pub mod cache;
pub mod cpio;
pub mod elf;
pub mod image;
pub mod machine;
pub mod modules;
pub mod protocol;
pub mod qemu;
pub mod relay;
pub mod session;
