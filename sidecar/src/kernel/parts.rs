//! What the monitors' kernel sides have in common: taking a loaded object apart.

use std::os::unix::fs::MetadataExt as _;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, RingBuf, lpm_trie::Key},
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use sidecar_common::monitor::Within;

use super::{
    Error,
    contract::{MapDef, RECORDS},
    lease::{own_namespace, own_scope},
    load::{chain, program},
    maps::failed,
};

/// A program of every monitor's, which is attached nowhere.
pub(super) const OWN_LEVEL: &str = "own_level";

/// Makes an error of what a monitor, by its key below `monitoring`, met with.
pub(super) fn refused(monitor: &'static str, what: &str, error: &dyn std::error::Error) -> Error {
    Error::Monitor {
        monitor,
        what: what.into(),
        cause: chain(error),
    }
}

/// Whose processes our monitors watch. Our level among PID namespaces, only the kernel can tell.
pub(super) fn within(ebpf: &mut Ebpf, monitor: &'static str) -> Result<Within, Error> {
    let failed = |e: ProgramError| refused(monitor, OWN_LEVEL, &e);
    let program = program::<RawTracePoint>(ebpf, OWN_LEVEL)?;
    program.load().map_err(failed)?;
    let answer = program
        .test_run(RawTracePointRunOptions::new())
        .map_err(failed)?;
    Ok(Within {
        scope: own_scope()?,
        level: answer.return_value,
        device: own_namespace()?.dev(),
    })
}

/// A map, out of the object.
fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| Error::Map {
        name,
        cause: "not in the kernel object".into(),
    })
}

/// An array, out of the object.
pub(super) fn array<V: Pod>(
    ebpf: &mut Ebpf,
    map: &MapDef<u32, V>,
) -> Result<Array<MapData, V>, Error> {
    Array::try_from(take(ebpf, map.name)?).map_err(failed(map.name))
}

/// A hash, out of the object.
pub(super) fn hash<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    map: &MapDef<K, V>,
) -> Result<HashMap<MapData, K, V>, Error> {
    HashMap::try_from(take(ebpf, map.name)?).map_err(failed(map.name))
}

/// A table of networks, out of the object.
pub(super) fn trie<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    map: &MapDef<Key<K>, V>,
) -> Result<LpmTrie<MapData, K, V>, Error> {
    LpmTrie::try_from(take(ebpf, map.name)?).map_err(failed(map.name))
}

/// The ring of records, out of the object.
pub(super) fn records(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, Error> {
    RingBuf::try_from(take(ebpf, RECORDS)?).map_err(failed(RECORDS))
}
