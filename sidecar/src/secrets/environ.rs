//! The agent's own environment as a source: read once, and then taken out of the memory that
//! `/proc/<agent>/environ` shows.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

use secrecy::zeroize::Zeroizing;

use super::Value;

/// More than the kernel lets an environment be.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// `env_start` in `/proc/<pid>/stat`, counted from the state after the name (`proc_pid_stat(5)`).
const ENV_START_AFTER_NAME: usize = 47;

/// Takes the named variables: their values, and their bytes in our initial stack become zeros.
pub(super) fn take(names: &[&str]) -> io::Result<HashMap<String, Value>> {
    let mut taken = HashMap::new();
    if names.is_empty() {
        return Ok(taken);
    }
    let start = env_start()?;
    let file = File::open("/proc/self/environ")?;
    // Room from the start: a buffer that grows leaves copies behind.
    let mut block = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    file.take(MAX_BYTES as u64).read_to_end(&mut block)?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
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
            memory.write_all_at(&vec![0; value.len()], start + offset as u64)?;
            // as getenv does, the first of two wins
            taken
                .entry(name.to_owned())
                .or_insert_with(|| Value::new(Zeroizing::new(value.to_vec())));
        }
        at += entry.len() + 1;
    }
    Ok(taken)
}

/// Where our environment begins in our memory.
fn env_start() -> io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    stat.rsplit_once(')')
        .and_then(|(_, fields)| {
            fields
                .split_whitespace()
                .nth(ENV_START_AFTER_NAME)?
                .parse()
                .ok()
        })
        .ok_or_else(|| io::Error::other("/proc/self/stat has no env_start"))
}
