//! Everything that parses, fed with the fuzzer's seeds and with what a few steps of chance make of them: always the same, so that
//! a target that is broken, or an input that failed once, shows without a fuzzer.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use kernelseal_parsers::{config, manifest, mountinfo, names, proc, ring, stack};

/// Inputs that are made for a target, beside its seeds.
const INPUTS: usize = 20_000;
/// A configuration takes longer, and most of what chance makes of one is no YAML.
const CONFIGURATIONS: usize = 1_500;
/// Changes that an input is made of, at most.
const CHANGES: usize = 6;
/// Bytes of an input, as for the fuzzer (`make fuzz`).
const LONGEST: usize = 8192;
/// Bytes and texts that parsers look for.
const TELLING: [&[u8]; 14] = [
    b"\0",
    b"\n",
    b" ",
    b":",
    b")",
    b"/",
    b"#!",
    b"0::",
    b"\xff",
    b"\xc3",
    b"18446744073709551616",
    b"-1",
    b"=",
    b"\0\0\0\0\0\0\0\0",
];

#[test]
fn configurations() {
    feed("config", CONFIGURATIONS, config::feed);
}

#[test]
fn manifests() {
    feed("manifest", CONFIGURATIONS, manifest::feed);
}

#[test]
fn initial_stacks() {
    feed("stack", INPUTS, stack::feed);
}

#[test]
fn records() {
    feed("ring", INPUTS, ring::feed);
}

#[test]
fn files_of_proc() {
    feed("proc", INPUTS, proc::feed);
}

#[test]
fn mounts() {
    feed("mountinfo", INPUTS, mountinfo::feed);
}

#[test]
fn paths_and_names() {
    feed("names", INPUTS, names::feed);
}

/// Every target of the fuzzer is fed here, too, and has seeds.
#[test]
fn no_target_is_missing() {
    let own = include_str!("seeds.rs");
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let makefile = fs::read_to_string(fuzz.join("../Makefile")).unwrap();
    let all = makefile.lines().find_map(|line| line.strip_prefix("T ?= "));
    let mut all: Vec<_> = all.unwrap().split(' ').collect();
    let mut found: Vec<_> = fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    all.sort_unstable();
    found.sort_unstable();
    assert_eq!(all, found, "the Makefile's T names all of them");
    for target in found {
        assert!(own.contains(&format!("feed(\"{target}\"")), "{target}");
    }
}

fn feed(target: &str, count: usize, function: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "fuzz/seeds/{target} is empty");
    for seed in &seeds {
        try_one(target, seed, function);
    }
    let mut chance = Chance(0);
    for _ in 0..count {
        try_one(target, &chance.input(&seeds), function);
    }
}

fn try_one(target: &str, input: &[u8], function: fn(&[u8])) {
    assert!(
        catch_unwind(|| function(input)).is_ok(),
        "{target} failed on b\"{}\"",
        input.escape_ascii()
    );
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // In an order that is the same everywhere.
    paths.sort_unstable();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Numbers (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    /// A seed, changed in some places.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(CHANGES) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let until = input.len().min(at + 1 + self.below(16));
        match self.below(7) {
            0 => drop(input.drain(at..until)),
            1 => input.truncate(at),
            2 => {
                let telling = TELLING[self.below(TELLING.len())];
                drop(input.splice(at..at, telling.iter().copied()));
            }
            3 => {
                let telling = TELLING[self.below(TELLING.len())];
                drop(input.splice(at..until, telling.iter().copied()));
            }
            4 => {
                let again = input[at..until].to_vec();
                drop(input.splice(at..at, again));
            }
            5 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                drop(input.splice(at.., other[from..].iter().copied()));
            }
            _ => {
                let random = self.next().to_le_bytes();
                for (byte, random) in input[at..until].iter_mut().zip(random) {
                    *byte ^= 1 << (random % 8);
                }
            }
        }
    }
}
