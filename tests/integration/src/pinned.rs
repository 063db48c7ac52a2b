//! The kernel side's maps, as they are pinned.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};

/// Where the kernel side is pinned, a folder for each version of its layout.
pub const PINS: &str = "/sys/fs/bpf/kernelseal";

/// Where the map of that name is pinned.
pub fn path(map: &str) -> Result<PathBuf> {
    let mut versions = fs::read_dir(PINS)?;
    let version = versions.next().context("no kernel side is loaded")?;
    Ok(version?.path().join(format!("map_{map}")))
}

fn open(map: &str) -> Result<MapData> {
    let path = path(map)?;
    MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// A hash.
pub fn hash<K: Pod, V: Pod>(map: &str) -> Result<HashMap<MapData, K, V>> {
    Ok(HashMap::try_from(Map::HashMap(open(map)?))?)
}

/// An array.
pub fn array<V: Pod>(map: &str) -> Result<Array<MapData, V>> {
    Ok(Array::try_from(Map::Array(open(map)?))?)
}
