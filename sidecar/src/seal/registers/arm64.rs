//! On arm64, where a 32-bit program (`AArch32`) has registers of its own, and a set of another size: we tell it by that,
//! and do not serve it.
//!
//! (Compiled for tests on other machines, too: but for two calls it is arithmetic.)
#![cfg_attr(
    not(target_arch = "aarch64"),
    expect(dead_code, reason = "its tests need only a part")
)]

use std::ptr;

use nix::{errno::Errno, libc, unistd::Pid};

use super::{Enter, SystemCall};
use crate::seal::stack::Word;

/// The number of prctl(2) (include/uapi/asm-generic/unistd.h).
pub(super) const fn number_of_prctl(_: Word) -> u64 {
    167
}

/// `svc #0`
pub(super) const fn enter(_: Word) -> Enter {
    Enter {
        bytes: &[0x01, 0x00, 0x00, 0xd4],
        aligned_to: 4,
    }
}

/// `struct user_pt_regs`: `x0` to `x30`, `sp`, `pc`, `pstate`.
const WORDS: usize = 34;
const BYTES: usize = WORDS * size_of::<u64>();
/// `sp`, among them.
const SP: usize = 31;
/// `pc`, among them.
const PC: usize = 32;
/// Which of them has a system call's number.
const NUMBER: usize = 8;
/// The first so many have its arguments that prctl(2) looks at.
const ARGUMENTS: usize = 5;
/// The general registers, among a task's sets of registers (include/uapi/linux/elf.h).
const NT_PRSTATUS: usize = 1;
/// The stack pointer among the registers of 32 bits, `r13`.
const SP_OF_32: usize = 13;

/// The numbers of execve(2) and execveat(2) (include/uapi/asm-generic/unistd.h), and those of 32 bits
/// (arch/arm64/include/asm/unistd32.h), which are in `r7`.
const EXECS: [u64; 2] = [221, 281];
const EXECS_OF_32: [u64; 2] = [11, 387];
const NUMBER_OF_32: usize = 7;

/// See the module above.
#[derive(Clone, Copy)]
pub(in crate::seal) struct Registers {
    words: [u64; WORDS],
    /// Bytes of them that the kernel gave.
    have: usize,
}

impl Registers {
    /// Those of a stopped task that we trace.
    pub(in crate::seal) fn read(pid: Pid) -> nix::Result<Self> {
        let mut words = [0; WORDS];
        let have = exchange(libc::PTRACE_GETREGSET, pid, &mut words, BYTES)?;
        Ok(Self { words, have })
    }

    /// Gives them to the task they are of.
    pub(in crate::seal) fn write(&self, pid: Pid) -> nix::Result<()> {
        let mut words = self.words;
        exchange(libc::PTRACE_SETREGSET, pid, &mut words, self.have).map(drop)
    }

    /// Where its stack is.
    pub(in crate::seal) fn stack_pointer(&self) -> u64 {
        match self.word() {
            Some(_) => self.words[SP],
            None => self.narrow(SP_OF_32),
        }
    }

    /// A register of 32 bits.
    fn narrow(&self, number: usize) -> u64 {
        self.words[number / 2] >> (number % 2 * 32) & u64::from(u32::MAX)
    }

    /// Moves its stack.
    pub(in crate::seal) fn move_stack(&mut self, pid: Pid, pointer: u64) -> nix::Result<()> {
        self.words[SP] = pointer;
        self.write(pid)
    }

    /// As they are at the program's first instruction.
    pub(in crate::seal) fn at_begin(mut self) -> Self {
        self.words[0] = 0;
        self
    }

    /// The same where it is about to make a system call.
    pub(in crate::seal) fn calling(mut self, call: &SystemCall) -> Self {
        self.words[..ARGUMENTS].fill(0);
        self.words[..call.arguments.len()].copy_from_slice(&call.arguments);
        (self.words[NUMBER], self.words[PC]) = (call.number, call.at);
        self
    }

    /// Whether the system call at whose begin it stands is an exec.
    pub(in crate::seal) fn is_executing(&self) -> bool {
        match self.word() {
            Some(_) => EXECS.contains(&self.words[NUMBER]),
            None => EXECS_OF_32.contains(&self.narrow(NUMBER_OF_32)),
        }
    }

    /// Whether it stands behind an exec that was interrupted, and begins it anew. (The kernel has put its registers back by then: what
    /// has failed, and has called nothing else since, looks the same.)
    pub(in crate::seal) fn executes_anew(&self) -> bool {
        self.is_executing()
    }

    /// What a system call has returned: an error below 0.
    #[expect(clippy::cast_possible_truncation, reason = "it is of 32 bits")]
    pub(in crate::seal) fn result(&self) -> i32 {
        self.words[0] as i32
    }

    /// How wide its pointers are; nothing if we cannot serve such programs here.
    pub(in crate::seal) fn word(&self) -> Option<Word> {
        (self.have == BYTES).then_some(Word::Eight)
    }
}

/// Reads or writes the general registers; gives how many bytes it were.
fn exchange(
    request: libc::c_uint,
    pid: Pid,
    words: &mut [u64; WORDS],
    length: usize,
) -> nix::Result<usize> {
    let mut part = libc::iovec {
        iov_base: words.as_mut_ptr().cast(),
        iov_len: length.min(BYTES),
    };
    // SAFETY: the kernel reads or writes no more than the part names, which lies in `words`, and `part` itself; both
    // outlive the call, and any bytes are words.
    let result = unsafe {
        libc::ptrace(
            request,
            pid.as_raw(),
            ptr::without_provenance_mut::<libc::c_void>(NT_PRSTATUS),
            &raw mut part,
        )
    };
    Errno::result(result)?;
    Ok(part.iov_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel would give them: bytes, and how many.
    fn given(bytes: &[u8]) -> Registers {
        let mut words = [0; WORDS];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Registers {
            words,
            have: bytes.len(),
        }
    }

    #[test]
    fn a_program_of_64_bits_has_its_pointer_behind_thirty_one_registers() {
        let mut of_64 = [0_u64; WORDS];
        of_64[31] = 0xffff_c5a0_3b10;
        let registers = given(bytemuck::cast_slice(&of_64));
        assert_eq!(registers.word(), Some(Word::Eight));
        assert_eq!(registers.stack_pointer(), 0xffff_c5a0_3b10);
        assert_eq!(registers.words, of_64);
    }

    #[test]
    fn a_program_of_32_bits_is_told_by_the_size_of_its_set() {
        // r0 to r15, cpsr, orig_r0
        let mut of_32 = [0x5555_5555_u32; 18];
        of_32[13] = 0xfffe_f430;
        let registers = given(bytemuck::cast_slice(&of_32));
        assert_eq!(registers.word(), None);
        assert_eq!(registers.stack_pointer(), 0xfffe_f430);
        assert!(!registers.is_executing());
        of_32[7] = 11;
        assert!(given(bytemuck::cast_slice(&of_32)).is_executing());
    }

    #[test]
    fn a_program_that_is_made_to_call_keeps_what_the_call_does_not_use() {
        let before = given(bytemuck::cast_slice(&[7_u64; WORDS]));
        let call = SystemCall {
            at: 0xffff_8000,
            number: number_of_prctl(Word::Eight),
            arguments: [67, 0],
        };
        let calling = before.calling(&call);
        assert_eq!(calling.words[..5], [67, 0, 0, 0, 0]);
        assert_eq!((calling.words[8], calling.words[32]), (167, 0xffff_8000));
        assert_eq!((calling.words[5], calling.words[31]), (7, 7));
        assert_eq!(calling.result(), 67);
    }
}
