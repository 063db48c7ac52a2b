//! What is left in the kernel side's maps.

use std::fmt::Debug;

use anyhow::Result;
use aya::Pod;
use kernelseal_integration::pinned;
use sidecar_common::policy::{Held, Sealed, Vault};

/// Entries of a map that are shown.
const SHOWN: usize = 5;

/// Entries of maps that hold something only while a program or its files are there; and counts of filters, which
/// follow them. None, when nothing is. `PENDING` is not among them: an exec that is killed midway leaves its entry there,
/// which the next one that needs the room takes.
pub fn leftovers() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut add = |name: &str, entries: Vec<String>| {
        if !entries.is_empty() {
            let shown = entries.len().min(SHOWN);
            let text = entries[..shown].join("\n  ");
            found.push(format!("{name}, {} entries:\n  {text}", entries.len()));
        }
    };
    add("SEALED", entries::<u32, Sealed>("SEALED")?);
    add("TREES", entries::<u64, u64>("TREES")?);
    add("HELD", entries::<u32, Held>("HELD")?);
    add("ENDED", entries::<u64, u8>("ENDED")?);
    add("VAULTS", entries::<u64, Vault>("VAULTS")?);
    for filter in ["SEALED_FILTER", "SEALED_COUNT", "NAME_FILTER"] {
        let mut nonzero = Vec::new();
        for (slot, count) in pinned::array::<u32>(filter)?.iter().enumerate() {
            match count? {
                0 => {}
                count => nonzero.push(format!("slot {slot}: {}", count.cast_signed())),
            }
        }
        add(filter, nonzero);
    }
    Ok(found)
}

fn entries<K: Pod + Debug, V: Pod + Debug>(map: &str) -> Result<Vec<String>> {
    pinned::hash::<K, V>(map)?
        .iter()
        .map(|entry| Ok(format!("{:?}", entry?)))
        .collect()
}
