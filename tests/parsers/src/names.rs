//! Paths and names, as the kernel side looks at them, with bytes here where memory of the kernel is there.

use sidecar_common::name::{self, CHUNK, Chunk};

/// Longest path with its NUL, and longest name without: no file has a longer one.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The last component, its hash and its end are what a plain look at the bytes says.
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

    let read = |at| read(&memory, at);
    let plain = text
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let component = &text[plain..];
    if component.len() <= NAME_MAX {
        let end_of = |_| text.len() as u64;
        assert_eq!(name::last_component(0, read, end_of), plain as u64);
        assert_eq!(name::end_of_path(0, read, end_of), name::end(component));
        assert_eq!(name::hash_at(plain as u64, read), name::hash(component));
    }
}

/// What the kernel side reads there; zeros where there is nothing.
fn read(memory: &[u8], at: u64) -> Chunk {
    let there = usize::try_from(at).ok().and_then(|at| memory.get(at..));
    let mut bytes = [0; CHUNK];
    for (to, from) in bytes.iter_mut().zip(there.unwrap_or_default()) {
        *to = *from;
    }
    bytemuck::cast(bytes)
}
