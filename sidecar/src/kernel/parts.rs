//! What the monitors' kernel sides have in common: taking a loaded object apart.

use std::os::unix::fs::MetadataExt as _;

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use sidecar_common::monitor::Within;

use super::{
    Error,
    claim::{own_namespace, own_scope},
    load::{chain, program},
    maps::failed,
};

/// A program of every monitor's, which is attached nowhere.
pub(super) const OWN_LEVEL: &str = "own_level";

/// What is asked of a kernel side: in its own memory, of which the kernel makes a map that is called as the section is.
pub(super) const SETTINGS: &str = ".data.settings";

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
pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or_else(|| Error::Map {
        name,
        cause: "not in the kernel object".into(),
    })
}

/// An array, out of the object.
pub(super) fn array<V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Array<MapData, V>, Error> {
    Array::try_from(take(ebpf, name)?).map_err(failed(name))
}

/// A hash, out of the object.
pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<aya::maps::HashMap<MapData, K, V>, Error> {
    aya::maps::HashMap::try_from(take(ebpf, name)?).map_err(failed(name))
}
