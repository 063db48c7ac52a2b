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

mod cgroup_paths;
pub mod kernel;
pub mod monitor;

/// What each of the three objects has beside its programs and maps.
///
/// Helpers that read the kernel's memory are for GPL-compatible programs only; this crate is licensed
/// "Apache-2.0 OR GPL-2.0-only".
#[macro_export]
macro_rules! object {
    () => {
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 4] = *b"GPL\0";
    };
}
