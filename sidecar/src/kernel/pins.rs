//! The shared kernel side's place in the BPF file system: one directory a layout version, complete
//! or not there at all.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::programs::links::PinnedLink;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use sidecar_common::layout::LAYOUT_VERSION;

use super::{
    Error,
    contract::{self, pinned},
    libraries, load, own_objects,
};
use crate::util::error_chain;

/// Where BPF objects are pinned on every system.
const BPF_FS: &str = "/sys/fs/bpf";
const ROOT: &str = "/sys/fs/bpf/kernelseal";

/// Held while the set of pins or the registry shared between agents change.
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// The directory of this layout version.
pub(crate) fn dir() -> PathBuf {
    Path::new(ROOT).join(format!("v{LAYOUT_VERSION}"))
}

/// The directories of other layout versions that are there.
pub(crate) fn others() -> Result<Vec<PathBuf>, Error> {
    let fail = |cause: io::Error| Error::Pins {
        path: ROOT.into(),
        cause,
    };
    let entries = match fs::read_dir(ROOT) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        // (what was not loaded to its end has no number, and is attached nowhere)
        let version = path.file_name().and_then(|name| {
            let number = name.to_str()?.strip_prefix('v')?;
            number.parse::<u32>().ok()
        });
        if version.is_some_and(|version| version != LAYOUT_VERSION) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The same, and ours if it is there.
pub(crate) fn all() -> Result<Vec<PathBuf>, Error> {
    let mut found = others()?;
    let is_there = dir()
        .try_exists()
        .map_err(|cause| Error::Pins { path: dir(), cause })?;
    found.extend(is_there.then(dir));
    Ok(found)
}

/// Where a map of that name is pinned.
pub(super) fn map(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("map_{name}"))
}

/// Where a program of that name is pinned.
pub(super) fn program(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("prog_{name}"))
}

/// Where a link of that name is pinned.
pub(super) fn link(name: &str) -> PathBuf {
    dir().join(format!("link_{name}"))
}

/// Whether the kernel side is loaded.
pub(crate) fn exist() -> bool {
    dir().exists()
}

/// Whether there is a BPF file system where it should be.
pub(crate) fn bpf_fs() -> Result<(), Error> {
    match statfs(BPF_FS) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => Ok(()),
        Ok(_) | Err(Errno::ENOENT) => Err(Error::NoBpfFs),
        Err(e) => Err(Error::Pins {
            path: BPF_FS.into(),
            cause: e.into(),
        }),
    }
}

/// Checks that every link is there: a set that lost one guards less than it says.
pub(crate) fn verify(_lock: &Lock) -> Result<(), Error> {
    ensure_complete()
}

/// The same, by an agent of this set: nobody changes it without taking its scope away first.
pub(super) fn ensure_complete() -> Result<(), Error> {
    // Where one of the late ones is needed, all are.
    let has_late = contract::LATE.iter().any(|name| link(name).exists());
    let all = contract::HOOKS.iter().chain(contract::TRACEPOINTS);
    for name in all.filter(|name| has_late || !contract::LATE.contains(name)) {
        let path = link(name);
        PinnedLink::from_pin(&path).map_err(|e| incomplete(path, &e))?;
    }
    libraries::ensure_attached()?;
    let pins = contract::PINNED_PROGRAMS
        .iter()
        .map(|name| program(&dir(), name));
    for path in pins.chain(pinned::MAPS.iter().map(|name| map(&dir(), name))) {
        if let Err(e) = fs::symlink_metadata(&path) {
            return Err(incomplete(path, &e));
        }
    }
    Ok(())
}

/// What is said of a pin that could not be opened.
pub(super) fn incomplete(path: PathBuf, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::lack(path.display().to_string(), error).unwrap_or_else(|| Error::Incomplete {
        path,
        cause: error_chain(error),
    })
}

/// Takes the lock, creating the directory where there is none.
pub(crate) fn lock() -> Result<Lock, Error> {
    let fail = |cause: io::Error| Error::Pins {
        path: ROOT.into(),
        cause,
    };
    bpf_fs()?;
    match fs::create_dir(ROOT) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
        _ => {}
    }
    let file = File::open(ROOT).map_err(fail)?;
    // A file system of its own mounted here could show us somebody else's objects.
    if file.metadata().map_err(fail)?.dev() != fs::metadata(BPF_FS).map_err(fail)?.dev() {
        return Err(Error::Pins {
            path: ROOT.into(),
            cause: io::Error::other("another file system is mounted here"),
        });
    }
    Flock::lock(file, FlockArg::LockExclusive)
        .map(Lock)
        .map_err(|(_, e)| fail(e.into()))
}

/// Loads, attaches and pins; the directory appears when all of it is there.
pub(crate) fn load_and_pin(_lock: &Lock) -> Result<(), Error> {
    let staging = Path::new(ROOT).join(format!("v{LAYOUT_VERSION}_loading"));
    let fail = |cause: io::Error| Error::Pins {
        path: staging.clone(),
        cause,
    };
    if staging.exists() {
        // (No dot in the name: the BPF file system refuses it.) We hold the lock: whoever left this died before it was complete.
        fs::remove_dir_all(&staging).map_err(fail)?;
    }
    // Before the directory: what cannot be attached leaves nothing behind.
    let mut loaded = load::load()?;
    fs::create_dir(&staging).map_err(fail)?;
    let pinned = |what: String| {
        move |e: &dyn std::error::Error| Error::Load {
            what,
            cause: error_chain(e),
        }
    };
    for (name, map) in loaded.ebpf.maps() {
        if !name.starts_with('.') {
            map.pin(staging.join(format!("map_{name}")))
                .map_err(|e| pinned(format!("pin of map {name}"))(&e))?;
        }
    }
    own_objects::note(&mut loaded)?;
    for name in contract::PINNED_PROGRAMS
        .iter()
        .chain([&contract::MMAP_FILE])
    {
        if let Some(program) = loaded.ebpf.program_mut(name) {
            program
                .pin(staging.join(format!("prog_{name}")))
                .map_err(|e| pinned(format!("pin of program {name}"))(&e))?;
        }
    }
    for (name, link) in loaded.links {
        link.pin(staging.join(format!("link_{name}")))
            .map_err(|e| pinned(format!("pin of link {name}"))(&e))?;
    }
    fs::rename(&staging, dir()).map_err(fail)
}

/// Removes one version's pins. What is attached ends with them.
pub(crate) fn remove(dir: &Path, _lock: &Lock) -> Result<(), Error> {
    // First out of the way: what is removed by halves must not be taken for a version.
    let leaving = Path::new(ROOT).join("leaving");
    let fail = |cause| Error::Pins {
        path: dir.into(),
        cause,
    };
    if leaving.exists() {
        fs::remove_dir_all(&leaving).map_err(fail)?;
    }
    fs::rename(dir, &leaving).map_err(fail)?;
    fs::remove_dir_all(&leaving).map_err(fail)
}

/// Removes every version's pins. What is attached ends with them.
pub(crate) fn remove_all(_lock: &Lock) -> Result<Vec<PathBuf>, Error> {
    let fail = |cause: io::Error| Error::Pins {
        path: ROOT.into(),
        cause,
    };
    let mut removed = Vec::new();
    for entry in fs::read_dir(ROOT).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        fs::remove_dir_all(&path).map_err(fail)?;
        removed.push(path);
    }
    fs::remove_dir(ROOT).map_err(fail)?;
    Ok(removed)
}
