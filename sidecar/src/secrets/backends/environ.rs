//! The agent's own environment as a source: read once, and then taken out of the memory that
//! `/proc/<agent>/environ` shows.

use std::{collections::HashMap, fs::OpenOptions, io, ops::Range, os::unix::fs::FileExt as _};

use secrecy::zeroize::Zeroizing;

use crate::process::text;
use crate::secrets::Value;

/// Where the environment is read and wiped.
pub(in crate::secrets) const MEMORY: &str = "/proc/self/mem";

/// Takes the named variables: their values, and their bytes in our initial stack become zeros.
pub(in crate::secrets) fn take(names: &[&str]) -> io::Result<HashMap<String, Value>> {
    let mut taken = HashMap::new();
    if names.is_empty() {
        return Ok(taken);
    }
    let range = environment()?;
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    // As large as it is, and in words: wiping goes element by element, and every start pays for it.
    let mut words = Zeroizing::new(vec![0_u64; length.div_ceil(size_of::<u64>())]);
    let block = &mut bytemuck::cast_slice_mut::<_, u8>(&mut words)[..length];
    let memory = OpenOptions::new().read(true).write(true).open(MEMORY)?;
    memory.read_exact_at(block, range.start)?;
    let mut at = 0;
    for entry in block.split(|byte| *byte == 0) {
        let found = names.iter().find_map(|name| {
            Some((
                *name,
                entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?,
            ))
        });
        if let Some((name, value)) = found {
            let offset = at + entry.len() - value.len();
            memory.write_all_at(&vec![0; value.len()], range.start + offset as u64)?;
            // as getenv does, the first of two wins
            taken
                .entry(name.to_owned())
                .or_insert_with(|| Value::new(Zeroizing::new(value.to_vec())));
        }
        at += entry.len() + 1;
    }
    Ok(taken)
}

/// Where our environment is in our memory.
fn environment() -> io::Result<Range<u64>> {
    let stat = std::fs::read("/proc/self/stat")?;
    text::environment(&stat)
        .ok_or_else(|| io::Error::other("/proc/self/stat has no env_start, env_end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_environment_is_where_we_look_for_it() {
        let shown = std::fs::read("/proc/self/environ").unwrap();
        let range = environment().unwrap();
        assert_eq!(range.end - range.start, shown.len() as u64);
    }
}
