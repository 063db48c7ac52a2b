//! Where a call's number and arguments are when it begins.

use sidecar_common::syscall::{self, ARGUMENTS};

use crate::kernel::{self, Ptr, read};

/// The number and the arguments of a call with these registers (`struct pt_regs`, arch/x86/include/asm/ptrace.h).
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn of_call(at: Ptr, is_narrow: bool) -> (u32, [u64; ARGUMENTS]) {
    if is_narrow {
        /// Bytes before `bp`; what follows counts from there, in words.
        const AT: usize = 32;
        /// `orig_ax`
        const NUMBER: usize = 11;
        /// `bx`, `cx`, `dx`, `si`, `di`, `bp`
        const ORDER: [usize; ARGUMENTS] = [1, 7, 8, 9, 10, 0];
        let words: [u64; NUMBER + 1] = read(at, AT);
        let low = |word: usize| words[word] & u64::from(u32::MAX);
        (
            (words[NUMBER] as u32).wrapping_add(syscall::NARROW),
            ORDER.map(low),
        )
    } else {
        /// From `r10`.
        const AT: usize = 56;
        const NUMBER: usize = 8;
        /// `di`, `si`, `dx`, `r10`, `r8`, `r9`
        const ORDER: [usize; ARGUMENTS] = [7, 6, 5, 0, 2, 1];
        let words: [u64; NUMBER + 1] = read(at, AT);
        let number = words[NUMBER] as u32 & !X32;
        (number, ORDER.map(|word| words[word]))
    }
}

/// The bit of a number by which a program of 64 bits says that its pointers have 32 (`__X32_SYSCALL_BIT`): to the same
/// functions, but for numbers from 512 on.
#[cfg(bpf_target_arch = "x86_64")]
pub(crate) const X32: u32 = 1 << 30;

#[cfg(bpf_target_arch = "aarch64")]
pub(crate) const X32: u32 = 0;

/// The same on arm64 (arch/arm64/include/asm/ptrace.h), where calls of 32 bits are not told of. The number is not that of
/// `x8`, but what a tracer may have put in its place.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn of_call(at: Ptr, _is_narrow: bool) -> (u32, [u64; ARGUMENTS]) {
    (read(at, kernel::off!(regs_syscall)), read(at, 0))
}
