//! Paths and names, as the kernel side looks at them: eight bytes at a time. The loops are those of
//! `sidecar-ebpf/src/exec.rs`, with bytes here where memory of the kernel is there.

use sidecar_common::policy::{HASH_START, below_first, hash_step, name_hash, zero_bytes};

const SLASHES: u64 = 0x2f2f_2f2f_2f2f_2f2f;
/// Longest path with its NUL, and longest name without.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The last component and its hash are what a plain look at the bytes says.
pub fn feed(bytes: &[u8]) {
    // What is behind the end is the kernel's, and any byte.
    let text = &bytes[..bytes.len().min(PATH_MAX - 1)];
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (start, behind) = (
        text.len() + 1,
        bytes.get(text.len() + 1..).unwrap_or_default(),
    );
    let mut memory = vec![0; start];
    memory[..text.len()].copy_from_slice(text);
    memory.extend_from_slice(behind);

    let name_at = last_component(&memory);
    let plain = text
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    assert_eq!(name_at, plain);
    let name = &text[plain..];
    if name.len() <= NAME_MAX {
        assert_eq!(hash_name(&memory[name_at..]), name_hash(name));
    }
}

/// The eight bytes from there on; zeros where there is nothing.
fn word(memory: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let there = memory.get(at..).unwrap_or_default();
    let length = there.len().min(8);
    word[..length].copy_from_slice(&there[..length]);
    u64::from_le_bytes(word)
}

fn last_component(path: &[u8]) -> usize {
    let mut name = 0;
    for at in (0..PATH_MAX).step_by(8) {
        let word = word(path, at);
        let end = zero_bytes(word);
        let mut slashes = zero_bytes(word ^ SLASHES);
        if end != 0 {
            slashes &= below_first(end);
        }
        if slashes != 0 {
            slashes |= slashes >> 8;
            slashes |= slashes >> 16;
            slashes |= slashes >> 32;
            let bytes = (slashes >> 7).wrapping_mul(0x0101_0101_0101_0101) >> 56;
            name = at + usize::try_from(bytes).expect("at most 8");
        }
        if end != 0 {
            return name;
        }
    }
    name
}

fn hash_name(name: &[u8]) -> u64 {
    let mut hash = HASH_START;
    for at in (0..=NAME_MAX).step_by(8) {
        let mut word = word(name, at);
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
    hash
}
