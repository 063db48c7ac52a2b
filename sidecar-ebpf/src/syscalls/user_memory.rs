//! The memory of the running program.

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use sidecar_common::syscall::TEXT_BYTES;

/// Reads a text of the running program's; how many bytes it has, with its NUL.
#[inline(always)]
pub(crate) fn text(address: u64, to: *mut [u8; TEXT_BYTES]) -> u16 {
    // SAFETY: the helper checks the address it reads from, and writes so many bytes at the most.
    let length =
        unsafe { bpf_probe_read_user_str(to.cast(), TEXT_BYTES as u32, address as *const _) };
    if length < 0 { 0 } else { length as u16 }
}

/// A word of the running program's.
#[inline(always)]
pub(crate) fn word<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address it reads from.
    unsafe {
        bpf_probe_read_user(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
    }
    value
}
