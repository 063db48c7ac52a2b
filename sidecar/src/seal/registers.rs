//! The registers of a held program: where its stack is, and how wide its pointers are.

#[cfg(any(target_arch = "aarch64", test))]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use super::stack::Word;

#[cfg(target_arch = "aarch64")]
pub(super) use self::arm64::Registers;
#[cfg(target_arch = "aarch64")]
use self::arm64::{enter, number_of_prctl};
#[cfg(target_arch = "x86_64")]
pub(super) use self::x86_64::Registers;
#[cfg(target_arch = "x86_64")]
use self::x86_64::{enter, number_of_prctl};

/// A system call that a stopped program is made to do. Of its arguments the first two are given, and the others are 0.
#[derive(Clone, Copy)]
pub(super) struct SystemCall {
    /// The address of an instruction that begins one.
    at: u64,
    number: u64,
    arguments: [u64; 2],
}

impl SystemCall {
    /// A prctl(2), by an instruction at that address.
    pub(super) fn prctl(word: Word, at: u64, arguments: [u64; 2]) -> Self {
        Self {
            at,
            number: number_of_prctl(word),
            arguments,
        }
    }

    /// Where in code, in bytes from its beginning, is an instruction that begins a system call; nothing where there is none.
    pub(super) fn find(code: &[u8], word: Word) -> Option<usize> {
        let instruction = enter(word);
        let mut starts = code.windows(instruction.bytes.len()).enumerate();
        let (at, _) = starts.find(|(at, bytes)| {
            *bytes == instruction.bytes && at.is_multiple_of(instruction.aligned_to)
        })?;
        Some(at)
    }
}

/// The instruction with which a system call begins.
struct Enter {
    bytes: &'static [u8],
    /// Bytes of which its address is a multiple.
    aligned_to: usize,
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn code_without_a_system_call_has_none() {
        assert_eq!(SystemCall::find(&[], Word::Eight), None);
        assert_eq!(SystemCall::find(&[0x0f], Word::Eight), None);
        assert_eq!(SystemCall::find(&[0xcd, 0x80, 0xc3], Word::Eight), None);
        assert_eq!(SystemCall::find(&[0x0f, 0x05, 0xc3], Word::Four), None);
    }

    #[test]
    fn a_system_call_is_found_wherever_it_begins() {
        let code = [0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05, 0xc3, 0xcd, 0x80];
        assert_eq!(SystemCall::find(&code, Word::Eight), Some(5));
        assert_eq!(SystemCall::find(&code, Word::Four), Some(8));
    }
}
