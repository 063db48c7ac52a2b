//! What is left in the kernel side's maps.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use sidecar_common::policy::{Held, Sealed, Vault};

const PINS: &str = "/sys/fs/bpf/kernelseal";
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
    add(
        "SEALED",
        entries::<u32, Sealed>(Map::HashMap(pinned("SEALED")?))?,
    );
    add(
        "TREES",
        entries::<u64, u64>(Map::HashMap(pinned("TREES")?))?,
    );
    add("HELD", entries::<u32, Held>(Map::HashMap(pinned("HELD")?))?);
    add(
        "VAULTS",
        entries::<u64, Vault>(Map::HashMap(pinned("VAULTS")?))?,
    );
    for filter in ["SEALED_FILTER", "NAME_FILTER"] {
        let counts: Array<_, u32> = Array::try_from(Map::Array(pinned(filter)?))?;
        let mut nonzero = Vec::new();
        for (slot, count) in counts.iter().enumerate() {
            match count? {
                0 => {}
                count => nonzero.push(format!("slot {slot}: {}", count.cast_signed())),
            }
        }
        add(filter, nonzero);
    }
    Ok(found)
}

fn entries<K: Pod + Debug, V: Pod + Debug>(map: Map) -> Result<Vec<String>> {
    let map: HashMap<_, K, V> = HashMap::try_from(map)?;
    map.iter()
        .map(|entry| Ok(format!("{:?}", entry?)))
        .collect()
}

fn pinned(name: &str) -> Result<MapData> {
    let path = folder()?.join(format!("map_{name}"));
    MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
}

fn folder() -> Result<PathBuf> {
    let mut versions = fs::read_dir(PINS)?;
    let version = versions.next().context("no kernel side is loaded")?;
    Ok(version?.path())
}
