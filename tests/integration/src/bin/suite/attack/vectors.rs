//! The ways that `fixtures/attack` knows, and what is to become of each.

use anyhow::{Result, ensure};

use super::scene::Scene;
use crate::machine::kernel_version;

/// Whether a way must end with EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// By the default policy.
    Always,
    /// With `blockMaps: true`.
    WithMaps,
    /// It need not: it shows nothing by itself.
    Never,
}

/// A way to the secret.
#[derive(Debug)]
pub struct Vector {
    pub name: String,
    pub guarded: Guarded,
    /// What events call it.
    pub access: &'static str,
    /// Whether the secret is certainly found where nothing is guarded.
    pub leaks_when_allowed: bool,
}

impl Vector {
    /// All of them, as the attack itself lists them: one that is not known here is an error.
    pub fn all(scene: &Scene) -> Result<Vec<Self>> {
        let names = scene.vectors()?;
        ensure!(
            names.len() > 30,
            "the attack names only {} ways",
            names.len()
        );
        names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != "core-dump")
            .map(Self::named)
            .collect()
    }

    fn named(name: &str) -> Result<Self> {
        let (guarded, access) = match name {
            "attach" | "seize" | "attach-threads" | "pidfd_getfd" | "32-attach" => {
                (Guarded::Always, "ptrace")
            }
            "process_vm_readv" | "32-process_vm_readv" => (Guarded::Always, "process_vm"),
            // Later kernels ask nobody about one with CAP_PERFMON; it gives hints and reads nothing.
            "process_madvise" if kernel_version()? > (6, 12) => (Guarded::Never, ""),
            "process_madvise" => (Guarded::Always, "mem"),
            "perf_event_open" | "32-perf_event_open" => (Guarded::Always, "perf_event"),
            "link:fd" => (Guarded::Always, "fd"),
            "link:map_files" => (Guarded::Always, "map_files"),
            _ if name.starts_with("file") => (Guarded::Always, "secret_file"),
            _ => of_procfs(name)?,
        };
        let finds = ["file", "attach", "seize", "process_vm", "perf", "link:"];
        Ok(Self {
            name: name.to_owned(),
            guarded,
            access,
            leaks_when_allowed: name.ends_with(":mem")
                || (finds.iter().any(|start| name.starts_with(start)) && name != "file-list"),
        })
    }
}

/// `bind:mem` and the like: by the file's name.
fn of_procfs(name: &str) -> Result<(Guarded, &'static str)> {
    const ALWAYS: [&str; 7] = [
        "environ",
        "mem",
        "syscall",
        "stack",
        "fd",
        "fdinfo",
        "coredump_filter",
    ];
    const WITH_MAPS: [&str; 7] = [
        "maps",
        "smaps",
        "smaps_rollup",
        "numa_maps",
        "pagemap",
        "auxv",
        "map_files",
    ];
    let file = name.split_once(':').map(|(_, file)| file);
    let known = |list: &[&'static str; 7]| list.iter().copied().find(|known| Some(*known) == file);
    if let Some(file) = known(&ALWAYS) {
        return Ok((Guarded::Always, file));
    }
    match known(&WITH_MAPS) {
        Some(file) => Ok((Guarded::WithMaps, file)),
        None => anyhow::bail!("vectors.rs does not know the way {name}"),
    }
}
