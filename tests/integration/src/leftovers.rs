//! What is left when no sealed program is there any more: in the kernel side's maps, and of mounts.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;

use anyhow::Result;
use aya::Pod;
use sidecar_common::policy::{Held, Sealed, Vault};

use crate::pinned;

/// Entries of a map that are shown.
const SHOWN: usize = 5;

/// Entries of maps that hold something only while a program or its files are there; and counts of filters, which
/// follow them. None, when nothing is. `PENDING` is not among them: an exec that is killed midway leaves its entry there,
/// which the next one that needs the room takes.
pub fn in_maps() -> Result<Vec<String>> {
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

/// Secret directories that are mounted, in whatever mount namespace, and folders that are left where they were.
pub fn secret_places() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        // Not a process, or one that is gone.
        let Ok(namespace) = fs::read_link(folder.join("ns/mnt")) else {
            continue;
        };
        if !seen.insert(namespace.clone()) {
            continue;
        }
        let mounts = fs::read_to_string(folder.join("mountinfo")).unwrap_or_default();
        let secret = mounts
            .lines()
            .filter(|line| line.contains("/kernelseal/secrets/"));
        found.extend(secret.map(|line| format!("{}: {line}", namespace.display())));
    }
    if let Ok(left) = fs::read_dir("/run/kernelseal/secrets") {
        for entry in left {
            found.push(entry?.path().display().to_string());
        }
    }
    Ok(found)
}
