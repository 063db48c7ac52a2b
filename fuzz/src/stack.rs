//! A program's initial stack, which the program that executed it has filled, and variables to add.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::parsers::stack::{Rebuilt, Stack, Variable, Word};

/// Highest address of a program, by its width.
const TOP: [(Word, u64, usize); 2] = [(Word::Four, 1 << 32, 4), (Word::Eight, 1 << 47, 8)];

/// What is read is read without harm; what is rebuilt reads as what it was, with ours added.
pub fn feed(bytes: &[u8]) {
    let _ = try_feed(&mut Unstructured::new(bytes));
}

fn try_feed(input: &mut Unstructured<'_>) -> Result<()> {
    let (word, top, width) = *input.choose(&TOP)?;
    let base = input.int_in_range(0..=top - 1)?;
    let limit = input.arbitrary()?;
    let values: [&[u8]; 2] = [input.arbitrary()?, input.arbitrary()?];
    let values = values.map(|value| value.split(|byte| *byte == 0).next().unwrap_or_default());
    let memory = input.bytes(input.len())?;
    // It ends where addresses do.
    let memory = &memory[..memory
        .len()
        .min(usize::try_from(top - base).unwrap_or(usize::MAX))];

    let Ok(stack) = Stack::parse(memory, base, word) else {
        return Ok(());
    };
    let _ = (stack.preload(), stack.execfn_path(), stack.vdso());
    let variables =
        [("TOKEN", values[0]), ("B", values[1])].map(|(name, value)| Variable { name, value });
    let Ok(rebuilt) = stack.rebuild(&variables, limit) else {
        return Ok(());
    };
    assert_eq!(rebuilt.pointer % 16, 0);
    let room = base - rebuilt.pointer;
    assert!(
        rebuilt.block.len() as u64 <= room,
        "it would overwrite what is there"
    );
    reads_as_it_was(memory, base, &rebuilt, &variables, word, width);
    Ok(())
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
    let new = Stack::parse(&whole, rebuilt.pointer, word).expect("a stack again");
    let old = Stack::parse(memory, base, word).expect("a stack, as before");
    assert_eq!((new.execfn(), new.vdso()), (old.execfn(), old.vdso()));

    let (old_env, new_env) = (words_of_env(memory, width), words_of_env(&whole, width));
    let kept = new_env.len() - variables.len();
    let ours = &new_env[kept..];
    // In their order, without those that ours replace.
    let mut rest = old_env.iter();
    assert!(
        new_env[..kept]
            .iter()
            .all(|pointer| rest.any(|known| known == pointer))
    );
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

/// The pointers of envp, read in another way than kernelseal does.
fn words_of_env(memory: &[u8], width: usize) -> Vec<u64> {
    let mut words = memory.chunks_exact(width).map(|bytes| {
        let mut whole = [0; 8];
        whole[..width].copy_from_slice(bytes);
        u64::from_le_bytes(whole)
    });
    let count = words
        .next()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0);
    words
        .skip(count + 1)
        .take_while(|word| *word != 0)
        .collect()
}
