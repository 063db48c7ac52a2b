//! A program's initial stack, which the program that executed it has filled, and variables to add.

use crate::parsers::stack::{Rebuilt, Stack, Variable, Word};

/// Highest address of a program, by its width.
const TOP: [(Word, u64, usize); 2] = [(Word::Four, 1 << 32, 4), (Word::Eight, 1 << 47, 8)];

/// What is read is read without harm; what is rebuilt reads as what it was, with ours added. The bytes are: the width (even:
/// 4), the stack's address and limit, the length of a value of ours, that value, and what is on the stack.
pub fn feed(bytes: &[u8]) {
    let _ = try_feed(bytes);
}

fn try_feed(mut bytes: &[u8]) -> Option<()> {
    let (word, top, width) = TOP[usize::from(take(&mut bytes, 1)?[0] % 2)];
    let base = number(take(&mut bytes, 8)?) % top;
    let limit = number(take(&mut bytes, 8)?);
    let length = take(&mut bytes, 1)?[0];
    let value = take(&mut bytes, usize::from(length))?;
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    // It ends where addresses do.
    let memory = &bytes[..bytes
        .len()
        .min(usize::try_from(top - base).unwrap_or(usize::MAX))];

    let stack = Stack::parse(memory, base, word).ok()?;
    let _ = (
        stack.variables().count(),
        stack.is_secure(),
        stack.execfn_path(),
    );
    let variables =
        [("TOKEN", value), ("B", b"".as_slice())].map(|(name, value)| Variable { name, value });
    let rebuilt = stack.rebuild(&variables, limit).ok()?;
    assert_eq!(rebuilt.pointer % 16, 0);
    let room = base - rebuilt.pointer;
    assert!(
        rebuilt.block.len() as u64 <= room,
        "it would overwrite what is there"
    );
    reads_as_it_was(memory, base, &rebuilt, &variables, word, width);
    Some(())
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}

fn reads_as_it_was(
    memory: &[u8],
    base: u64,
    rebuilt: &Rebuilt,
    variables: &[Variable<'_>],
    word: Word,
    width: usize,
) {
    let below = usize::try_from(base - rebuilt.pointer).expect("as large as the block");
    let mut whole = rebuilt.block.to_vec();
    whole.resize(below, 0);
    whole.extend_from_slice(memory);
    if let Some((at, strings)) = &rebuilt.moved {
        let at = usize::try_from(at - rebuilt.pointer).expect("above the block");
        whole[at..at + strings.len()].copy_from_slice(strings);
    }
    let new = Stack::parse(&whole, rebuilt.pointer, word).expect("a stack again");
    let old = Stack::parse(memory, base, word).expect("a stack, as before");
    assert_eq!(new.execfn(), old.execfn());

    let (old_env, new_env) = (words_of_env(memory, width), words_of_env(&whole, width));
    let kept = new_env.len() - variables.len();
    let ours = &new_env[kept..];
    // In their order, without those that ours replace.
    let mut rest = old_env.iter().map(|known| entry(memory, base, *known));
    assert!(new_env[..kept].iter().all(|pointer| {
        let found = entry(&whole, rebuilt.pointer, *pointer);
        rest.any(|known| known == found)
    }));
    for (pointer, variable) in ours.iter().zip(variables) {
        let at = usize::try_from(pointer - rebuilt.pointer).expect("in the block");
        let entry = whole[at..]
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        assert_eq!(
            entry,
            [variable.name.as_bytes(), b"=", variable.value].concat()
        );
    }
}

/// What a pointer leads to; else the pointer itself.
fn entry(memory: &[u8], base: u64, pointer: u64) -> Result<&[u8], u64> {
    let from = pointer
        .checked_sub(base)
        .and_then(|from| usize::try_from(from).ok());
    let bytes = from.and_then(|from| memory.get(from..)).ok_or(pointer)?;
    bytes.split(|byte| *byte == 0).next().ok_or(pointer)
}

/// The pointers of envp, read in another way than kernelseal does.
fn words_of_env(memory: &[u8], width: usize) -> Vec<u64> {
    let mut words = memory.chunks_exact(width).map(number);
    let count = words
        .next()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0);
    words
        .skip(count + 1)
        .take_while(|word| *word != 0)
        .collect()
}
