//! The rebuilt stack, against a model of what a kernel leaves and a C library reads.
#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses of a stack made here"
)]

use proptest::prelude::*;

use super::*;

const TOP: u64 = 0x7fff_0000_0000;

/// A stack as the kernel makes it: strings at the top, the block of pointers below.
fn kernel_stack(
    argv: &[impl AsRef<[u8]>],
    envp: &[impl AsRef<[u8]>],
    word: Word,
) -> (Vec<u8>, u64) {
    let top = if word == Word::Four { 0xffff_d000 } else { TOP };
    let strings: Vec<&[u8]> = argv
        .iter()
        .map(AsRef::as_ref)
        .chain(envp.iter().map(AsRef::as_ref))
        .collect();
    let length: usize = strings.iter().map(|s| s.len() + 1).sum();
    let width = word.bytes();
    let words = 1 + argv.len() + 1 + envp.len() + 1 + AUXV.len() * 2;
    let base = (top - (words * width + length + 64) as u64) & !(ALIGN - 1);
    let mut memory = Vec::new();
    let mut at = base + (words * width) as u64;
    let put =
        |memory: &mut Vec<u8>, word: u64| memory.extend_from_slice(&word.to_le_bytes()[..width]);
    put(&mut memory, argv.len() as u64);
    for (index, string) in strings.iter().enumerate() {
        if index == argv.len() {
            put(&mut memory, 0);
        }
        put(&mut memory, at);
        at += string.len() as u64 + 1;
    }
    if envp.is_empty() {
        put(&mut memory, 0);
    }
    put(&mut memory, 0);
    for (kind, value) in AUXV {
        put(&mut memory, kind);
        put(&mut memory, value);
    }
    for string in strings {
        memory.extend_from_slice(string);
        memory.push(0);
    }
    memory.resize((top - base) as usize, 0);
    (memory, base)
}

const NONE: [&str; 0] = [];
/// Among others `AT_PAGESZ`, `AT_RANDOM`, `AT_PLATFORM`, `AT_HWCAP2` and `AT_SYSINFO_EHDR`, whose values mean nothing to us.
const AUXV: [(u64, u64); 7] = [
    (6, 4096),
    (25, 0x7fff_1239),
    (15, 0x7fff_1249),
    (26, 2),
    (33, 0x1000),
    (AT_SECURE, 0),
    (AT_NULL, 0),
];

/// What a program finds: argv, envp and auxv, read from the new block and the old memory above it.
#[derive(Debug, PartialEq)]
struct Found {
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
    auxv: Vec<(u64, u64)>,
}

fn read(rebuilt: &Rebuilt, memory: &[u8], base: u64, word: Word) -> Found {
    let mut memory = memory.to_vec();
    if let Some((at, strings)) = &rebuilt.moved {
        let at = (at - base) as usize;
        memory[at..at + strings.len()].copy_from_slice(strings);
    }
    let string = |address: u64| {
        let bytes = if address >= base {
            &memory[(address - base) as usize..]
        } else {
            &rebuilt.block[(address - rebuilt.pointer) as usize..]
        };
        bytes.split(|b| *b == 0).next().unwrap().to_vec()
    };
    let mut index = 0;
    let mut next = || {
        index += 1;
        word_at(&rebuilt.block, word, index - 1).unwrap()
    };
    let argc = next();
    let arguments = (0..argc).map(|_| string(next())).collect();
    assert_eq!(next(), 0);
    let mut envp = Vec::new();
    loop {
        match next() {
            0 => break,
            pointer => envp.push(string(pointer)),
        }
    }
    let mut auxv = Vec::new();
    loop {
        let entry = (next(), next());
        auxv.push(entry);
        if entry.0 == AT_NULL {
            return Found {
                argv: arguments,
                envp,
                auxv,
            };
        }
    }
}

fn variable<'a>(name: &'a str, value: &'a str) -> Variable<'a> {
    Variable {
        name,
        value: value.as_bytes(),
    }
}

#[test]
fn a_variable_of_the_same_name_gives_way_and_is_named() {
    let envp = [
        "A=old".to_owned(),
        "AB=stays".to_owned(),
        "A=twice".to_owned(),
    ];
    let (memory, base) = kernel_stack(&["prog"], &envp, Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let rebuilt = stack.rebuild(&[variable("A", "new")], 0).unwrap();
    assert_eq!(rebuilt.overrode, ["A"]);
    assert_eq!(
        read(&rebuilt, &memory, base, Word::Eight).envp,
        [b"AB=stays".as_slice(), b"A=new"]
    );
}

/// Programs that set their title write it over their arguments and the variables behind them, up to the first gap.
#[test]
fn a_variable_that_gives_way_leaves_no_gap() {
    let envp = ["A=old", "B=1", "A=older", "C=22"];
    let (memory, base) = kernel_stack(&["prog"], &envp, Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let rebuilt = stack.rebuild(&[variable("A", "new")], 0).unwrap();
    let (at, strings) = rebuilt.moved.as_ref().unwrap();
    assert_eq!(
        *at,
        stack.word(stack.env.start),
        "right behind the arguments"
    );
    assert_eq!(&***strings, b"B=1\0C=22\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    // without one that gives way nothing is moved
    assert!(
        stack
            .rebuild(&[variable("D", "1")], 0)
            .unwrap()
            .moved
            .is_none()
    );
}

#[test]
fn a_string_longer_than_the_kernel_allows_is_e2big() {
    let (memory, base) = kernel_stack(&["prog"], &NONE, Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let fits = "x".repeat(MAX_STRING - "A=\0".len());
    let too_long = fits.clone() + "x";
    assert!(stack.rebuild(&[variable("A", &fits)], u64::MAX).is_ok());
    let error = stack
        .rebuild(&[variable("A", &too_long)], u64::MAX)
        .err()
        .unwrap();
    assert!(error.to_string().contains("variable A") && error.to_string().contains("E2BIG"));
    assert!(!error.to_string().contains("xxx"));
}

#[test]
fn the_kernels_limit_for_all_strings_holds() {
    let (memory, base) = kernel_stack(&["prog"], &["A=1"], Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let half = "x".repeat(100_000);
    let variables = [variable("B", &half), variable("C", &half)];
    assert!(matches!(
        stack.rebuild(&variables, 0),
        Err(StackError::TooMuch { .. })
    ));
    assert!(stack.rebuild(&variables, 8 * 1024 * 1024).is_ok());
}

#[test]
fn the_kernel_counts_a_32_bit_programs_pointers_by_its_own_size() {
    // "a" and its NUL, and a pointer: 6 bytes each by the program's own size, 10 by the kernel's
    let environment = vec!["a"; 20_000];
    for word in [Word::Four, Word::Eight] {
        let (memory, base) = kernel_stack(&["prog"], &environment, word);
        let stack = Stack::parse(&memory, base, word).unwrap();
        let rebuilt = stack.rebuild(&[variable("A", "b")], 0);
        assert!(matches!(rebuilt, Err(StackError::TooMuch { .. })));
    }
}

#[test]
fn variables_are_told_one_by_one() {
    let (memory, base) = kernel_stack(&["prog"], &["X=1", "Y=", "Z"], Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let found: Vec<_> = stack.variables().collect();
    assert_eq!(found, [&b"X=1"[..], b"Y=", b"Z"]);
    assert!(!stack.is_secure());
}

#[test]
fn a_program_without_arguments_has_a_stack_too() {
    let (memory, base) = kernel_stack(&NONE, &NONE, Word::Eight);
    let stack = Stack::parse(&memory, base, Word::Eight).unwrap();
    let found = read(
        &stack.rebuild(&[variable("A", "1")], 0).unwrap(),
        &memory,
        base,
        Word::Eight,
    );
    assert_eq!((found.argv.len(), found.envp), (0, vec![b"A=1".to_vec()]));
}

/// Any bytes but NUL.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=u8::MAX, 0..most)
}

/// Variables, and what a careless parent passes as such: without `=`, without a name, empty.
fn entry() -> impl Strategy<Value = Vec<u8>> {
    let name = || "[A-Z]{1,3}".prop_map(String::into_bytes);
    prop_oneof![
        6 => (name(), bytes(60)).prop_map(|(name, value)| [&*name, b"=", &value].concat()),
        1 => name(),
        1 => (name(), bytes(9)).prop_map(|(name, value)| [&*name, b"==", &value].concat()),
        1 => bytes(9).prop_map(|value| [b"=", &*value].concat()),
        1 => bytes(60),
        1 => Just(Vec::new()),
    ]
}

/// Few, or now and then many.
fn some<T: Strategy + Clone>(
    of: T,
    few: usize,
    many: usize,
) -> impl Strategy<Value = Vec<T::Value>> {
    prop_oneof![
        9 => prop::collection::vec(of.clone(), 0..few),
        1 => prop::collection::vec(of, 0..many),
    ]
}

proptest! {
    #[test]
    fn a_program_finds_what_it_had_and_what_we_added(
        argv in some(bytes(40).boxed(), 20, 400),
        envp in some(entry().boxed(), 40, 400),
        ours in prop::collection::btree_map("[A-Z]{1,3}", bytes(200), 1..10),
        limit in prop_oneof![Just(0), Just(8 << 20), Just(u64::MAX)],
        narrow in any::<bool>(),
    ) {
        let word = if narrow { Word::Four } else { Word::Eight };
        let (memory, base) = kernel_stack(&argv, &envp, word);
        let variables: Vec<Variable<'_>> =
            ours.iter().map(|(name, value)| Variable { name, value }).collect();
        let stack = Stack::parse(&memory, base, word).unwrap();
        let rebuilt = stack.rebuild(&variables, limit).unwrap();
        prop_assert_eq!(rebuilt.pointer % ALIGN, 0);
        prop_assert!(rebuilt.pointer + rebuilt.block.len() as u64 <= base);
        let is_ours = |entry: &[u8]| {
            let mut parts = entry.splitn(2, |byte| *byte == b'=');
            let name = parts.next().and_then(|name| std::str::from_utf8(name).ok());
            parts.next().is_some() && name.is_some_and(|name| ours.contains_key(name))
        };
        let expected: Vec<Vec<u8>> = envp.iter().filter(|entry| !is_ours(entry)).cloned()
            .chain(ours.iter().map(|(n, v)| [n.as_bytes(), b"=", v].concat())).collect();
        let found = read(&rebuilt, &memory, base, word);
        prop_assert_eq!(&found.argv, &argv);
        prop_assert_eq!(found.envp, expected);
        prop_assert_eq!(found.auxv, AUXV.to_vec());
    }

    #[test]
    fn no_memory_makes_it_panic(memory in prop::collection::vec(any::<u8>(), 0..600), base in any::<u64>()) {
        for word in [Word::Four, Word::Eight] {
            if let Ok(stack) = Stack::parse(&memory, base, word) {
                let _ = (stack.variables().count(), stack.is_secure());
                let _ = stack.rebuild(&[variable("A", "1")], 0);
            }
        }
    }
}
