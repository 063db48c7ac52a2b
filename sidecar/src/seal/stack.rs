//! A program's initial stack: read as the kernel left it, and written anew with more variables.
//!
//! At the first instruction the stack pointer stands on `argc, argv…, NULL, envp…, NULL, auxv…`
//! (the System V ABI; `create_elf_tables` in the kernel's `binfmt_elf.c`). A new block goes below
//! it, with our strings in it. The kernel's own strings stay where they are, and `/proc/<pid>/environ`
//! shows only those. Where ours replace some, the others close up: a program that sets its title writes it over its arguments
//! and over the variables behind them, as far as one follows on the other.

use zeroize::Zeroizing;

/// Bytes one string may have, with its NUL (`MAX_ARG_STRLEN`: 32 pages). A longer one would start,
/// but never be passed on to a child.
pub(crate) const MAX_STRING: usize = 32 * 4096;
/// Bytes below which the kernel accepts any arguments and variables (`ARG_MAX`).
const MIN_TOTAL: u64 = 131_072;
/// Three quarters of the kernel's standard stack, above which it accepts none (`_STK_LIM / 4 * 3`).
const MAX_TOTAL: u64 = 6 * 1024 * 1024;
/// Stack pointers are multiples of this at a program's entry.
const ALIGN: u64 = 16;
/// `AT_NULL` ends the auxiliary vector.
const AT_NULL: u64 = 0;
/// `AT_EXECFN`: where the name that was executed is.
const AT_EXECFN: u64 = 31;
/// `AT_SYSINFO_EHDR`: where the code is that the kernel itself gives every program (the vDSO).
const AT_SYSINFO_EHDR: u64 = 33;
/// `AT_SECURE`: the loader ignores its variables.
const AT_SECURE: u64 = 23;

/// Why a stack cannot be rebuilt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StackError {
    /// The block does not end inside of the memory that was read.
    #[error("its initial stack is not readable as one")]
    Malformed,
    /// Its pointers are of a width that we do not serve on this machine.
    #[error("it is a 32-bit program, which is not supported on this architecture")]
    Narrow,
    /// The kernel's limit for a single string.
    #[error("variable {name} is longer than the kernel's limit of {MAX_STRING} bytes (E2BIG)")]
    StringTooLong {
        /// The variable's name.
        name: String,
    },
    /// The kernel's limit for all of them.
    #[error(
        "arguments and variables together, {total} bytes, exceed the kernel's limit of {limit} bytes for this program (E2BIG)"
    )]
    TooMuch {
        /// Bytes with ours.
        total: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// How wide the program's pointers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A 32-bit program.
    #[cfg_attr(
        target_arch = "aarch64",
        allow(dead_code, reason = "refused there, and read by tests")
    )]
    Four,
    /// A 64-bit program.
    Eight,
}

impl Word {
    fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// The initial block, as found.
pub(crate) struct Stack<'a> {
    memory: &'a [u8],
    base: u64,
    word: Word,
    /// Word indices: where envp begins and where its NULL is, where auxv ends.
    env: std::ops::Range<usize>,
    end: usize,
}

/// A new block and where it goes.
pub(crate) struct Rebuilt {
    /// The new stack pointer, where the block begins.
    pub(crate) pointer: u64,
    /// The block. Holds secrets.
    pub(crate) block: Zeroizing<Vec<u8>>,
    /// The kernel's strings of the variables, closed up, and where they go; where ours replace some.
    pub(crate) moved: Option<(u64, Zeroizing<Vec<u8>>)>,
    /// Names the program had already, now with our value.
    pub(crate) overrode: Vec<String>,
}

/// A variable to add.
pub(crate) struct Variable<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its value; no NUL.
    pub(crate) value: &'a [u8],
}

impl<'a> Stack<'a> {
    /// Reads the block that begins at `base`, the first byte of `memory`.
    pub(crate) fn parse(memory: &'a [u8], base: u64, word: Word) -> Result<Self, StackError> {
        let at = |index: usize| word_at(memory, word, index).ok_or(StackError::Malformed);
        let argc = usize::try_from(at(0)?).map_err(|_| StackError::Malformed)?;
        let env_start = argc.checked_add(2).ok_or(StackError::Malformed)?;
        if at(env_start - 1)? != 0 {
            return Err(StackError::Malformed);
        }
        let mut env_end = env_start;
        while at(env_end)? != 0 {
            env_end += 1;
        }
        let mut end = env_end + 1;
        while at(end)? != AT_NULL {
            end += 2;
        }
        at(end + 1)?;
        Ok(Self {
            memory,
            base,
            word,
            env: env_start..env_end,
            end: end + 2,
        })
    }

    fn word(&self, index: usize) -> u64 {
        word_at(self.memory, self.word, index).unwrap_or(0)
    }

    /// Some of them, as they lie there.
    fn words(&self, indices: std::ops::Range<usize>) -> Result<&'a [u8], StackError> {
        let width = self.word.bytes();
        let bytes = self.memory.get(indices.start * width..indices.end * width);
        bytes.ok_or(StackError::Malformed)
    }

    /// The NUL-terminated string at an address of the program, if it lies in the memory we have.
    fn string(&self, address: u64) -> Option<&'a [u8]> {
        let from = usize::try_from(address.checked_sub(self.base)?).ok()?;
        let bytes = self.memory.get(from..)?;
        bytes.split(|b| *b == 0).next()
    }

    /// An entry of the auxiliary vector.
    fn aux(&self, kind: u64) -> Option<u64> {
        (self.env.end + 1..self.end)
            .step_by(2)
            .find(|index| self.word(*index) == kind)
            .map(|index| self.word(index + 1))
    }

    /// Address of the path that was executed.
    pub(crate) fn execfn(&self) -> Option<u64> {
        self.aux(AT_EXECFN)
    }

    /// The path that was executed.
    pub(crate) fn execfn_path(&self) -> Option<&'a [u8]> {
        self.string(self.execfn()?)
    }

    /// Where the kernel's own code (the vDSO) is in the program; nothing where there is none (`vdso=0`).
    pub(crate) fn vdso(&self) -> Option<u64> {
        self.aux(AT_SYSINFO_EHDR)
    }

    /// Whether the arguments begin with these.
    pub(crate) fn begins_with(&self, arguments: &[Vec<u8>]) -> bool {
        // argv is between its count and its own NULL
        let argv = 1..self.env.start - 1;
        arguments.len() <= argv.len()
            && argv
                .zip(arguments)
                .all(|(index, wanted)| self.string(self.word(index)) == Some(wanted))
    }

    /// Its variables, each `NAME=value`.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &'a [u8]> {
        let indices = self.env.clone();
        indices.filter_map(|index| self.string(self.word(index)))
    }

    /// Whether the kernel has told the loader that the program has more rights than who started it.
    pub(crate) fn is_secure(&self) -> bool {
        self.aux(AT_SECURE).unwrap_or(0) != 0
    }

    /// The block with `variables` added, for a program whose stack may grow to `stack_limit` bytes.
    /// A variable of the same name the program had before is left out.
    pub(crate) fn rebuild(
        &self,
        variables: &[Variable<'_>],
        stack_limit: u64,
    ) -> Result<Rebuilt, StackError> {
        let mut overrode = Vec::new();
        let mut kept: Vec<u64> = self
            .env
            .clone()
            .map(|index| self.word(index))
            .filter(|pointer| {
                let Some(entry) = self.string(*pointer) else {
                    return true;
                };
                let ours = variables.iter().find(|variable| {
                    entry
                        .strip_prefix(variable.name.as_bytes())
                        .is_some_and(|e| e.starts_with(b"="))
                });
                if let Some(variable) = ours
                    && !overrode.iter().any(|name| name == variable.name)
                {
                    overrode.push(variable.name.to_owned());
                }
                ours.is_none()
            })
            .collect();
        let moved = if overrode.is_empty() {
            None
        } else {
            self.close_up(&mut kept)
        };

        let size_of = |variable: &Variable<'_>| variable.name.len() + variable.value.len() + 2;
        if let Some(long) = variables
            .iter()
            .find(|variable| size_of(variable) > MAX_STRING)
        {
            return Err(StackError::StringTooLong {
                name: long.name.to_owned(),
            });
        }
        let strings: usize = variables.iter().map(size_of).sum();
        let words =
            self.env.start + kept.len() + variables.len() + 1 + (self.end - self.env.end - 1);
        let width = self.word.bytes();
        let size = words * width + strings;
        self.check_total(strings, variables.len(), stack_limit)?;
        let pointer = self
            .base
            .checked_sub(size as u64)
            .ok_or(StackError::Malformed)?
            & !(ALIGN - 1);

        // Sized once: a vector that grows leaves copies behind.
        let mut block = Zeroizing::new(Vec::with_capacity(size));
        block.extend_from_slice(self.words(0..self.env.start)?);
        let mut string_at = pointer + (words * width) as u64;
        let added = variables.iter().map(|variable| {
            let at = string_at;
            string_at += size_of(variable) as u64;
            at
        });
        for pointer in kept.into_iter().chain(added) {
            let bytes = pointer.to_le_bytes();
            match self.word {
                Word::Four => block.extend_from_slice(&bytes[..width]),
                Word::Eight => block.extend_from_slice(&bytes),
            }
        }
        block.extend_from_slice(self.words(self.env.end..self.end)?);
        for variable in variables {
            block.extend_from_slice(variable.name.as_bytes());
            block.push(b'=');
            block.extend_from_slice(variable.value);
            block.push(0);
        }
        Ok(Rebuilt {
            pointer,
            block,
            moved,
            overrode,
        })
    }

    /// Has the variables that are kept follow one on the other, where all of them do. They are as the kernel has put them
    /// there, so what they leave is behind them.
    fn close_up(&self, kept: &mut [u64]) -> Option<(u64, Zeroizing<Vec<u8>>)> {
        let from = self.word(self.env.start);
        let mut end = from;
        for index in self.env.clone() {
            if self.word(index) != end {
                return None;
            }
            end = end.checked_add(self.string(end)?.len() as u64 + 1)?;
        }
        // (behind the words, and each with its NUL: what lies elsewhere the kernel has not put there)
        let words_end = self
            .base
            .checked_add((self.end * self.word.bytes()) as u64)?;
        let memory_end = self.base.checked_add(self.memory.len() as u64)?;
        if from < words_end || end > memory_end {
            return None;
        }
        let length = usize::try_from(end - from).ok()?;
        let mut strings = Zeroizing::new(Vec::with_capacity(length));
        for pointer in kept {
            let string = self.string(*pointer)?;
            *pointer = from + strings.len() as u64;
            strings.extend_from_slice(string);
            strings.push(0);
        }
        strings.resize(length, 0);
        Some((from, strings))
    }

    /// Holds us to the limit the kernel would have applied at the exec (`bprm_stack_limits`).
    /// It counts pointers by its own size, a 32-bit program's, too.
    fn check_total(&self, added: usize, count: usize, stack_limit: u64) -> Result<(), StackError> {
        let limit = (stack_limit / 4).clamp(MIN_TOTAL, MAX_TOTAL);
        let pointers = ((self.env.end + count) * size_of::<u64>()) as u64;
        let lowest = (1..self.env.end)
            .map(|index| self.word(index))
            .filter(|pointer| *pointer >= self.base)
            .min();
        let end = self.base.saturating_add(self.memory.len() as u64);
        let strings = lowest.map_or(0, |lowest| end.saturating_sub(lowest));
        let total = strings + pointers + added as u64;
        if total > limit {
            Err(StackError::TooMuch { total, limit })
        } else {
            Ok(())
        }
    }
}

fn word_at(memory: &[u8], word: Word, index: usize) -> Option<u64> {
    let bytes = memory.get(index.checked_mul(word.bytes())?..)?;
    Some(match word {
        Word::Four => u32::from_le_bytes(*bytes.first_chunk()?).into(),
        Word::Eight => u64::from_le_bytes(*bytes.first_chunk()?),
    })
}

// (with its path: tests/parsers includes this file from elsewhere)
#[cfg(test)]
#[path = "stack/tests.rs"]
mod tests;
