//! On `x86_64`, where the kernel shows a 32-bit program's registers as it keeps them: as a 64-bit one's.

use nix::{libc, sys::ptrace, unistd::Pid};

use crate::seal::stack::Word;

/// `__USER32_CS`: the code segment of a 32-bit program.
const USER32_CS: u64 = 0x23;

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

    /// Moves its stack.
    pub(in crate::seal) fn set_stack_pointer(&mut self, pointer: u64) {
        self.0.rsp = pointer;
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
