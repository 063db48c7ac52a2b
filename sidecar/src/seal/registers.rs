//! The registers of a held program: where its stack is, and how wide its pointers are.

#[cfg(any(target_arch = "aarch64", test))]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(super) use self::arm64::Registers;
#[cfg(target_arch = "x86_64")]
pub(super) use self::x86_64::Registers;
