//! Program names, as both sides look at them. The kernel side reads eight bytes at a time, because
//! every exec on the node pays for it; the loops are here, so that they can be tried where tests run.

use crate::layout::{NAME_FILTER_SLOTS, NAME_LEN};

/// Bytes of a text that are read at once; most paths take one or two reads.
pub const CHUNK: usize = 32;
/// What a read gives: the first byte in the lowest place of the first word.
pub type Chunk = [u64; CHUNK / 8];
/// Bytes at a path's beginning, or else at its end, that are looked at for its last component, which has fewer
/// (`NAME_MAX`): more, and the verifier would follow them all.
const WINDOW: usize = NAME_LEN;
/// How often: at the beginning, and at the end.
const WINDOWS: usize = 2;

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
/// An odd constant whose product spreads low bits upwards (2^64 divided by the golden ratio).
const HASH_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const SLASHES: u64 = 0x2f2f_2f2f_2f2f_2f2f;
/// A mark for every byte.
const MARKS: u64 = 0x8080_8080_8080_8080;

/// Hash of a file name (a path's last component). A filter only: the agent compares the names.
#[must_use]
pub const fn hash(name: &[u8]) -> u64 {
    let mut hash = HASH_START;
    let mut rest = name;
    while !rest.is_empty() {
        let (word, more) = rest.split_at(if rest.len() < 8 { rest.len() } else { 8 });
        let mut padded = [0; 8];
        padded.split_at_mut(word.len()).0.copy_from_slice(word);
        hash = hash_step(hash, u64::from_le_bytes(padded));
        rest = more;
    }
    hash
}

/// A name's last eight bytes, the last in the highest place, zeros before its start.
#[must_use]
pub const fn end(name: &[u8]) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < name.len() {
        word = (word >> 8) | ((name[i] as u64) << 56);
        i += 1;
    }
    word
}

/// The place in the filter of names for those with this [`end`]: all that most starts of a program
/// have looked at.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "some bits of a hash")]
pub const fn filter_slot(end: u64) -> u32 {
    hash_step(HASH_START, end) as u32 % NAME_FILTER_SLOTS
}

/// [`hash`] of the NUL-terminated name at an address.
#[inline(always)]
pub fn hash_at(name: u64, read: impl Fn(u64) -> Chunk) -> u64 {
    let mut hash = HASH_START;
    for chunk in 0..NAME_LEN / CHUNK {
        for mut word in read(name + (chunk * CHUNK) as u64) {
            let end = zero_bytes(word);
            if end != 0 {
                word &= below_first(end);
            }
            if word != 0 {
                hash = hash_step(hash, word);
            }
            if end != 0 {
                return hash;
            }
        }
    }
    hash
}

/// The address of the last component of the NUL-terminated path at an address. `end_of` gives the address of a text's NUL;
/// it is asked for the long ones.
#[inline(always)]
pub fn last_component(path: u64, read: impl Fn(u64) -> Chunk, end_of: impl Fn(u64) -> u64) -> u64 {
    let mut name = path;
    let mut at = path;
    for chunk in 0..WINDOWS * WINDOW / CHUNK {
        if chunk == WINDOW / CHUNK {
            at = last_window(end_of(path));
            name = at;
        }
        for word in read(at) {
            let end = zero_bytes(word);
            let mut slashes = zero_bytes(word ^ SLASHES);
            if end != 0 {
                slashes &= below_first(end);
            }
            // The name begins behind the last slash: as many bytes on as lie up to the highest mark.
            // Counted without a branch, of which the verifier would follow every one.
            if slashes != 0 {
                name = at + u64::from(count_marks(up_to_last(slashes)));
            }
            if end != 0 {
                return name;
            }
            at += 8;
        }
    }
    name
}

/// [`end`] of the last component of the NUL-terminated path at an address; `end_of` as in [`last_component`].
#[inline(always)]
pub fn end_of_path(path: u64, read: impl Fn(u64) -> Chunk, end_of: impl Fn(u64) -> u64) -> u64 {
    let mut before = 0;
    let mut at = path;
    for chunk in 0..WINDOWS * WINDOW / CHUNK {
        if chunk == WINDOW / CHUNK {
            at = last_window(end_of(path));
        }
        for word in read(at) {
            let end = zero_bytes(word);
            if end != 0 {
                let bytes = count_marks(below_first(end) & MARKS);
                return without_directory(last_eight(before, word, bytes));
            }
            before = word;
        }
        at += CHUNK as u64;
    }
    0
}

/// Where the window begins whose last byte is the NUL at an address.
#[inline(always)]
const fn last_window(nul: u64) -> u64 {
    nul.wrapping_sub(WINDOW as u64 - 1)
}

/// The eight bytes up to the end of a text that ends after so many `bytes` (0 to 7) of a `word`,
/// which follows the word `before`.
#[inline(always)]
#[must_use]
pub const fn last_eight(before: u64, word: u64, bytes: u32) -> u64 {
    // In two steps: a shift by 64 is none.
    (word << (63 - 8 * bytes) << 1) | (before >> (8 * bytes))
}

/// A path's last eight bytes without those that belong to a directory's name.
#[inline(always)]
const fn without_directory(end: u64) -> u64 {
    let directory = up_to_last(zero_bytes(end ^ SLASHES));
    end & !((directory >> 7) * 0xff)
}

/// One step of [`hash`]: eight bytes of a name, zeros after its end. A word of zeros only is not
/// part of a name.
#[inline(always)]
const fn hash_step(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(HASH_FACTOR);
    mixed ^ (mixed >> 32)
}

/// Marks every byte of a word that is zero with its highest bit; exact for each byte, since no
/// carry crosses from one to the next.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = !MARKS;
    !(((word & LOW) + LOW) | word | LOW)
}

/// The bytes of a word below the first that is marked.
#[inline(always)]
const fn below_first(marks: u64) -> u64 {
    ((marks & marks.wrapping_neg()) >> 7).wrapping_sub(1)
}

/// Marks every byte up to the last that is marked.
#[inline(always)]
const fn up_to_last(mut marks: u64) -> u64 {
    marks |= marks >> 8;
    marks |= marks >> 16;
    marks | (marks >> 32)
}

/// How many bytes of a word are marked.
#[inline(always)]
const fn count_marks(marks: u64) -> u32 {
    ((marks >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{string::String, vec::Vec};

    use super::*;

    /// A NUL-terminated text with other bytes behind it, as memory from address 0 on.
    fn memory(text: &[u8]) -> impl Fn(u64) -> Chunk {
        let mut bytes = Vec::from(text);
        bytes.push(0);
        bytes.resize(8192, b'/');
        move |at| {
            core::array::from_fn(|word| {
                let at = usize::try_from(at).unwrap() + 8 * word;
                u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
            })
        }
    }

    /// The address of its NUL.
    fn end_in(text: &[u8]) -> impl Fn(u64) -> u64 {
        let end = text.len() as u64;
        move |_| end
    }

    #[test]
    fn a_path_of_any_length_ends_in_its_name() {
        for length in (0..4096).step_by(7).chain([254, 255, 256, 257, 4095]) {
            for name in [1, 7, 8, 9, 31, 32, 33, 254, 255] {
                let folders = "some/folder/".chars().cycle().take(length);
                let mut path: String = folders.collect();
                path.push('/');
                let start = path.len();
                path.extend(('a'..='z').cycle().take(name));
                let (path, name) = (path.as_bytes(), &path.as_bytes()[start..]);
                let (found, end_found) = (
                    last_component(0, memory(path), end_in(path)),
                    end_of_path(0, memory(path), end_in(path)),
                );
                assert_eq!(found, start as u64, "{path:?}");
                assert_eq!(end_found, end(name), "{path:?}");
            }
        }
    }

    #[test]
    fn names_that_differ_anywhere_hash_differently() {
        let names: [&[u8]; 7] = [
            b"psql",
            b"psq",
            b"psqll",
            b"psqlpsql",
            b"psqlpsqlx",
            b"",
            b"lqsp",
        ];
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                assert_ne!(hash(a), hash(b));
            }
        }
    }

    #[test]
    fn read_word_by_word_it_is_the_same() {
        for folder in 0..70 {
            for name in 0..70 {
                let mut path: String = "folder/".chars().cycle().take(folder).collect();
                if folder > 0 {
                    path.push('/');
                }
                let start = path.len();
                path.extend(('a'..='z').cycle().take(name));
                let (path, name) = (path.as_bytes(), &path.as_bytes()[start..]);
                assert_eq!(
                    last_component(0, memory(path), end_in(path)),
                    start as u64,
                    "{path:?}"
                );
                assert_eq!(
                    end_of_path(0, memory(path), end_in(path)),
                    end(name),
                    "{path:?}"
                );
                assert_eq!(hash_at(start as u64, memory(path)), hash(name), "{path:?}");
            }
        }
    }

    #[test]
    fn the_last_eight_bytes_of_two_words() {
        let (before, word) = (
            u64::from_le_bytes(*b"abcdefgh"),
            u64::from_le_bytes(*b"ijklmnop"),
        );
        assert_eq!(last_eight(before, word, 0), end(b"abcdefgh"));
        assert_eq!(last_eight(before, word, 3), end(b"abcdefghijk"));
        assert_eq!(last_eight(0, before, 3), end(b"abc"));
    }

    #[test]
    fn zero_bytes_are_found_where_they_are() {
        assert_eq!(
            zero_bytes(u64::from_le_bytes(*b"/./\0\x01a\0b")),
            0x0080_0000_8000_0000
        );
        assert_eq!(zero_bytes(u64::from_le_bytes(*b"abcdefgh")), 0);
        let word = u64::from_le_bytes(*b"ab\0cd\0ef");
        assert_eq!(
            word & below_first(zero_bytes(word)),
            u64::from_le_bytes(*b"ab\0\0\0\0\0\0")
        );
        assert_eq!(
            below_first(zero_bytes(u64::from_le_bytes(*b"\0bcdefgh"))),
            0
        );
    }
}
