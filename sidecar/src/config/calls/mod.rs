//! System calls that can be watched: their names, what they are about, their numbers on this machine, and what their
//! arguments mean.

mod bits;
mod narrow;
mod row;
mod table;

use std::str::FromStr as _;

use schemars::JsonSchema;
use serde::Serialize;
use syscalls::Sysno;

pub(crate) use self::{
    bits::Bits,
    narrow::{functions as narrow_functions, is_part},
};

/// What a system call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Files and file systems.
    File,
    /// Sockets.
    Network,
    /// Processes, from their beginning to their end.
    Process,
    /// File descriptors.
    Descriptors,
    /// Memory.
    Memory,
    /// Signals.
    Signals,
    /// Timers.
    Timers,
    /// Users and groups.
    Users,
    /// The machine, limits, and what changes the kernel's view of a process.
    System,
}

impl Category {
    /// All of them, with their names.
    pub(crate) const ALL: [(&'static str, Self); 9] = [
        ("file", Self::File),
        ("network", Self::Network),
        ("process", Self::Process),
        ("descriptors", Self::Descriptors),
        ("memory", Self::Memory),
        ("signals", Self::Signals),
        ("timers", Self::Timers),
        ("users", Self::Users),
        ("system", Self::System),
    ];

    /// As events and configurations tell it.
    pub(crate) fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, category)| *category == self)
            .map_or("", |(name, _)| name)
    }
}

/// What an argument means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meaning {
    /// A number with a sign, of 32 bits.
    Number,
    /// One of 16 bits: whatever else is in the register, the kernel does not look at.
    Short,
    /// One of 64 bits.
    Offset,
    /// A number of bytes, or another without a sign.
    Size,
    /// A file descriptor.
    Descriptor,
    /// One of a folder that a path is below, or the current folder.
    Folder,
    /// Something in the program's memory that is not looked at.
    Pointer,
    /// The name of a file or another text.
    Text,
    /// A socket's address; its length is the argument after it.
    Address,
    /// The same, and its length is told by the kernel, at where the argument after it points to.
    AddressOut,
    /// A message, whose address is told.
    Message,
    /// Rights of a file, in octal.
    Mode,
    /// A signal.
    Signal,
    /// One of several, or several of them.
    Bits(&'static Bits),
    /// A structure of words of 64 bits; its length is the argument after it.
    Words(&'static [Argument]),
}

/// An argument, by the kernel's name for it.
#[derive(Debug)]
pub(crate) struct Argument(pub(crate) &'static str, pub(crate) Meaning);

/// What becomes of a call that is not as others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It returns.
    Returns,
    /// It does not.
    Ends,
    /// If it returns well, it is to another program.
    Execs,
    /// It is as one of several calls.
    Parts,
}

/// A system call.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// As the kernel's table of system calls has it.
    pub(crate) name: &'static str,
    /// What the kernel's function for it is called behind `__x64_sys_`.
    pub(crate) function: &'static str,
    pub(crate) category: Category,
    pub(crate) arguments: &'static [Argument],
    pub(crate) end: End,
}

impl Call {
    /// Whether it is called so, by its name or its function's.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.function == name
    }

    /// Its number on this machine, if this machine has it.
    pub(crate) fn number(&self) -> Option<u32> {
        // What arm64's kernel calls newfstatat (include/uapi/asm-generic/unistd.h), the library has by its older name.
        let name = match self.name {
            "newfstatat" if cfg!(target_arch = "aarch64") => "fstatat",
            name => name,
        };
        u32::try_from(Sysno::from_str(name).ok()?.id()).ok()
    }
}

/// The calls that the kernel side is to know, by its numbers: these, as programs of either width make them.
pub(crate) fn numbered(calls: &[&'static Call]) -> impl Iterator<Item = (u32, &'static Call)> {
    let wide = calls
        .iter()
        .filter_map(|call| Some((call.number()?, *call)));
    let narrow = narrow::all().filter(|(_, one)| calls.iter().any(|call| call.name == one.name));
    wide.chain(narrow).chain(narrow::parted(calls))
}

/// Whether a number is that of a call of 32 bits.
pub(crate) fn is_narrow(number: u32) -> bool {
    number >= sidecar_common::syscall::NARROW
}

/// Names of those that can be watched on some machine.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    table::TABLE.iter().map(|call| call.name)
}

/// Those that can be watched on this machine.
pub(crate) fn all() -> impl Iterator<Item = &'static Call> {
    table::TABLE.iter().filter(|call| call.number().is_some())
}

/// The one of that name.
#[cfg(test)]
pub(crate) fn find(name: &str) -> Option<&'static Call> {
    all().find(|call| call.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_there_once_and_is_one_of_the_kernels() {
        let mut names = HashSet::new();
        for call in table::TABLE {
            assert!(names.insert(call.name), "{} is there twice", call.name);
            assert!(Sysno::from_str(call.name).is_ok(), "{}", call.name);
            let mut arguments = HashSet::new();
            assert!(call.arguments.iter().all(|one| arguments.insert(one.0)));
        }
    }

    #[test]
    fn no_function_is_called_like_another_call() {
        for call in table::TABLE {
            for name in [call.name, call.function] {
                let called = table::TABLE.iter().filter(|one| one.is_called(name));
                assert_eq!(called.count(), 1, "{name}");
            }
        }
    }

    #[test]
    fn numbers_are_below_those_of_32_bits() {
        let numbers = all().filter_map(Call::number);
        assert!(numbers.max() < Some(sidecar_common::syscall::MAX_NUMBER));
    }

    #[test]
    fn a_length_follows_its_address() {
        for call in table::TABLE {
            for (at, argument) in call.arguments.iter().enumerate() {
                if matches!(
                    argument.1,
                    Meaning::Address | Meaning::AddressOut | Meaning::Words(_)
                ) {
                    assert!(at + 1 < call.arguments.len(), "{}", call.name);
                }
            }
        }
    }

    #[test]
    fn every_category_has_calls() {
        for (name, category) in Category::ALL {
            assert!(all().any(|call| call.category == category), "{name}");
        }
    }
}
