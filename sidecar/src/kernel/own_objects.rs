//! What is ours among the kernel's BPF objects: below the node nobody but an agent gets a descriptor of it, and the kernel
//! side is told which they are.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{ProgramInfo, links::FdLink},
};
use sidecar_common::policy::{ObjectKind, OwnObject};

use super::{
    Error,
    contract::pinned::OWN_OBJECTS,
    load::{Loaded, chain},
    maps::{Pinned, failed},
    pins,
};

/// Notes all that was loaded, before it is pinned.
pub(super) fn note(loaded: &mut Loaded) -> Result<(), Error> {
    let mut objects = of(&loaded.ebpf)?;
    for (name, link) in &loaded.links {
        let info = link.info().map_err(|e| unknown(name, &e))?;
        objects.insert(object(ObjectKind::Link, info.id()));
    }
    let map = loaded
        .ebpf
        .map_mut(OWN_OBJECTS.name)
        .ok_or_else(|| Error::Map {
            name: OWN_OBJECTS.name,
            cause: "not in the kernel object".into(),
        })?;
    let mut own = HashMap::try_from(map).map_err(failed(OWN_OBJECTS.name))?;
    for object in objects {
        own.insert(object, 1u8, 0)
            .map_err(failed(OWN_OBJECTS.name))?;
    }
    Ok(())
}

/// Notes what an agent's monitor loaded, where there is a kernel side to note it in.
pub(super) fn note_monitor(ebpf: &Ebpf) -> Result<(), Error> {
    if pins::exist() {
        insert(of(ebpf)?)?;
    }
    Ok(())
}

/// Notes an agent's ring, of which the kernel side has a map of maps.
pub(super) fn note_map(map: &MapData) -> Result<(), Error> {
    let info = map.info().map_err(failed("ring"))?;
    insert([object(ObjectKind::Map, info.id())])
}

/// Notes a link that is attached later.
pub(super) fn note_link(name: &str, link: &FdLink) -> Result<(), Error> {
    let info = link.info().map_err(|e| unknown(name, &e))?;
    insert([object(ObjectKind::Link, info.id())])
}

fn insert(objects: impl IntoIterator<Item = OwnObject>) -> Result<(), Error> {
    let mut own = Pinned(&pins::dir()).hash(&OWN_OBJECTS)?;
    for object in objects {
        own.insert(object, 1u8, 0)
            .map_err(failed(OWN_OBJECTS.name))?;
    }
    Ok(())
}

/// The programs of a loaded object, and all the maps that they use: those of its own memory, too.
fn of(ebpf: &Ebpf) -> Result<HashSet<OwnObject>, Error> {
    let mut objects = HashSet::new();
    for (name, program) in ebpf.programs() {
        // (one that this kernel does not need is not loaded)
        let Ok(info) = program.info() else { continue };
        objects.insert(object(ObjectKind::Program, info.id()));
        let maps = ProgramInfo::map_ids(&info).map_err(|e| unknown(name, &e))?;
        let maps = maps.into_iter().flatten();
        objects.extend(maps.map(|id| object(ObjectKind::Map, id)));
    }
    Ok(objects)
}

fn object(kind: ObjectKind, id: u32) -> OwnObject {
    OwnObject {
        kind: kind as u32,
        id,
    }
}

fn unknown(name: &str, error: &dyn std::error::Error) -> Error {
    Error::Load {
        what: format!("{name}, asked for its number"),
        cause: chain(error),
    }
}
