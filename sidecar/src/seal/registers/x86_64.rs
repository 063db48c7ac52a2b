//! On `x86_64`, where the kernel shows a 32-bit program's registers as it keeps them: as a 64-bit one's.

use std::mem::offset_of;

use nix::{libc, sys::ptrace, unistd::Pid};

use super::{Enter, SystemCall};
use crate::seal::stack::Word;

/// The number of prctl(2).
pub(super) const fn number_of_prctl(word: Word) -> u64 {
    match word {
        // arch/x86/entry/syscalls/syscall_32.tbl
        Word::Four => 172,
        Word::Eight => libc::SYS_prctl.cast_unsigned(),
    }
}

/// `int 0x80` and `syscall`.
pub(super) const fn enter(word: Word) -> Enter {
    let bytes: &[u8] = match word {
        Word::Four => &[0xcd, 0x80],
        Word::Eight => &[0x0f, 0x05],
    };
    Enter {
        bytes,
        aligned_to: 1,
    }
}

/// `__USER32_CS`: the code segment of a 32-bit program.
const USER32_CS: u64 = 0x23;

/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h).
const X32: u64 = 0x4000_0000;

/// The numbers of execve(2) and execveat(2), of each kind of program (arch/x86/entry/syscalls): a kind is not told by its
/// code segment alone.
const EXECS: [u64; 6] = [
    libc::SYS_execve.cast_unsigned(),
    libc::SYS_execveat.cast_unsigned(),
    // 32 bits
    11,
    358,
    // x32
    X32 + 520,
    X32 + 545,
];

/// See the module above.
#[derive(Clone, Copy)]
pub(in crate::seal) struct Registers(libc::user_regs_struct);

impl Registers {
    /// Those of a stopped task that we trace.
    pub(in crate::seal) fn read(pid: Pid) -> nix::Result<Self> {
        ptrace::getregs(pid).map(Self)
    }

    /// Gives them to the task they are of.
    pub(in crate::seal) fn write(&self, pid: Pid) -> nix::Result<()> {
        ptrace::setregs(pid, self.0)
    }

    /// Where its stack is.
    pub(in crate::seal) fn stack_pointer(&self) -> u64 {
        self.0.rsp
    }

    /// Moves its stack: the one register, which costs a third of all.
    pub(in crate::seal) fn move_stack(&mut self, pid: Pid, pointer: u64) -> nix::Result<()> {
        const AT: usize = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rsp);
        self.0.rsp = pointer;
        ptrace::write_user(pid, AT as ptrace::AddressType, pointer.cast_signed())
    }

    /// As they are at the program's first instruction: in the midst of its exec they do not have yet what that returns.
    pub(in crate::seal) fn at_begin(mut self) -> Self {
        self.0.rax = 0;
        self
    }

    /// The same where it is about to make a system call.
    pub(in crate::seal) fn calling(mut self, call: &SystemCall) -> Self {
        let is_narrow = self.word() == Some(Word::Four);
        let [first, second] = call.arguments;
        let all = &mut self.0;
        (all.rip, all.rax) = (call.at, call.number);
        // (no system call is under way that would begin anew)
        all.orig_rax = u64::MAX;
        if is_narrow {
            (all.rbx, all.rcx, all.rdx, all.rsi, all.rdi) = (first, second, 0, 0, 0);
        } else {
            (all.rdi, all.rsi, all.rdx, all.r10, all.r8) = (first, second, 0, 0, 0);
        }
        self
    }

    /// Whether the system call at whose begin it stands may be an exec.
    pub(in crate::seal) fn is_executing(&self) -> bool {
        EXECS.contains(&self.0.orig_rax)
    }

    /// Whether it stands behind an exec that was interrupted, and begins it anew.
    pub(in crate::seal) fn executes_anew(&self) -> bool {
        /// `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`, `ERESTART_RESTARTBLOCK` (include/linux/errno.h)
        const ANEW: [i32; 4] = [-512, -513, -514, -516];
        self.is_executing() && ANEW.contains(&self.result())
    }

    /// What a system call has returned: an error below 0.
    #[expect(clippy::cast_possible_truncation, reason = "it is of 32 bits")]
    pub(in crate::seal) fn result(&self) -> i32 {
        self.0.rax as i32
    }

    /// How wide its pointers are; nothing if we cannot serve such programs here.
    #[expect(clippy::unnecessary_wraps, reason = "on arm64 it may be nothing")]
    pub(in crate::seal) fn word(&self) -> Option<Word> {
        if self.0.cs == USER32_CS {
            Some(Word::Four)
        } else {
            Some(Word::Eight)
        }
    }
}
