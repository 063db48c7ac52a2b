//! What user space and the kernel object agree on by name: programs, and maps with the types of their keys and values. A test
//! compares each list with the object that was built, so that a hook which nothing attaches, or a map of another shape,
//! fails the build and not the guard.

use std::marker::PhantomData;

use sidecar_common::{
    layout::NAME_LEN,
    policy::{
        BindingKey, Counters, Held, Maker, OwnObject, RingKey, Scope, ScopeId, Sealed, Vault,
    },
};

/// The security hooks we attach to, in this order; a program has its hook's name. What remembers a
/// file system comes after what forgets it.
pub(super) const HOOKS: &[&str] = &[
    "sb_free_security",
    "sb_kern_mount",
    "file_open",
    "file_permission",
    "ptrace_access_check",
    "ptrace_traceme",
    "perf_event_open",
    "bpf",
    "bpf_map",
    "bpf_prog",
    "inode_unlink",
    "inode_rmdir",
    "inode_rename",
    "inode_setattr",
    "locked_down",
    "path_notify",
    "task_kill",
    "file_send_sigiotask",
    "task_setrlimit",
    "task_setscheduler",
    "task_setnice",
    "task_setioprio",
    "sb_mount",
    "sb_umount",
    "sb_remount",
    "move_mount",
    "task_alloc",
    "bprm_creds_for_exec",
    COMMITTED,
];
/// Attached only where tracepoints may be missed.
const COMMITTED: &str = "bprm_committed_creds";
const WAKEUP: &str = "sched_wakeup_new";
/// What not every kernel needs: those of 6.16 and later do.
pub(super) const LATE: [&str; 2] = [COMMITTED, WAKEUP];
/// The tracepoints we attach to; a program has its tracepoint's name.
pub(super) const TRACEPOINTS: &[&str] = &[
    "sched_process_exec",
    "sched_process_fork",
    "sched_process_exit",
    "sched_process_free",
    WAKEUP,
];
/// Makes its caller the agent of a scope.
pub(super) const ENLIST: &str = "enlist";
/// Reads the name of one of its caller's control groups.
pub(super) const OWN_CGROUP: &str = "own_cgroup";
/// Takes a program that was delivered to off what is held.
pub(super) const SETTLE: &str = "settle";
/// Tells whether a descriptor of its caller's is the script that was executed.
pub(super) const IS_EXECUTED: &str = "is_executed";
/// Tells where a file comes from that a descriptor of its caller's leads to.
pub(super) const PROVENANCE: &str = "provenance";
/// The hook that is attached where an agent asks for it.
pub(super) const MMAP_FILE: &str = "mmap_file";
/// Finds where a task keeps the number of its system call. Run once, while loading.
pub(super) const FIND_SYSCALL_SLOT: &str = "find_syscall_slot";
/// What an agent runs itself, and is pinned for that.
pub(super) const PINNED_PROGRAMS: &[&str] = &[ENLIST, OWN_CGROUP, SETTLE, IS_EXECUTED, PROVENANCE];
/// A pinned map of the kernel side, with the types of its keys and values: it cannot be opened as another.
pub(super) struct PinnedMap<K, V> {
    pub(super) name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

/// Declares the maps that agents open, and lists them with the sizes of their keys and values.
macro_rules! pinned_maps {
    ($($(#[$about:meta])* $NAME:ident: $Key:ty => $Value:ty;)*) => {
        $(
            $(#[$about])*
            pub(super) const $NAME: PinnedMap<$Key, $Value> = PinnedMap {
                name: stringify!($NAME),
                types: PhantomData,
            };
        )*

        /// All of them.
        pub(super) const PINNED_MAPS: &[&str] = &[$(stringify!($NAME)),*];

        #[cfg(test)]
        const SIZES: &[(&str, usize, usize)] =
            &[$((stringify!($NAME), size_of::<$Key>(), size_of::<$Value>())),*];
    };
}

pinned_maps! {
    /// What each agent is responsible for, by its PID namespace.
    SCOPE_LEASES: ScopeId => Scope;
    /// Sealed processes, by the kernel's own number.
    SEALED: u32 => Sealed;
    /// How many processes a seal has.
    TREES: u64 => u64;
    /// Programs that are held, by the kernel's own number.
    HELD: u32 => Held;
    /// Mounts of secret files, by the address of their superblock.
    VAULTS: u64 => Vault;
    /// The seal that a delivering thread mounts for.
    MOUNTING: Maker => u64;
    /// Counters of a scope.
    COUNTERS: ScopeId => Counters;
    /// Names that are watched.
    BINDINGS: BindingKey => u64;
    /// Which hashes of names may be watched.
    NAME_FILTER: u32 => u32;
    /// How many agents want every exec reported.
    ALL_EXECS: u32 => u32;
    /// The ring of each delivering thread; a value is the ring's descriptor.
    RINGS: RingKey => u32;
    /// When each hook last ran for a self-test.
    FIRED: u32 => u64;
    /// Seals that may map code of their image alone.
    IMAGE_ONLY: u64 => u8;
    /// What [`OWN_CGROUP`] answers.
    CGROUP_NAME: u32 => [u8; NAME_LEN];
    /// Our own maps, programs and links.
    OWN_OBJECTS: OwnObject => u8;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya_obj::{Object, ProgramSection};

    use super::*;
    use crate::kernel::{load, network, parts::OWN_LEVEL, syscalls};

    /// Maps that the kernel side has for itself.
    const ITS_OWN: [&str; 8] = [
        "ENDED",
        "INITS",
        "MOUNTED_BELOW",
        "PENDING",
        "SCRIPTS",
        "SEALED_COUNT",
        "SEALED_FILTER",
        "SYSCALL_SLOT",
    ];

    fn programs(object: &Object, is_meant: impl Fn(&ProgramSection) -> bool) -> BTreeSet<&str> {
        let programs = object.programs.iter();
        programs
            .filter(|(_, program)| is_meant(&program.section))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    fn set<'n>(lists: &[&[&'n str]]) -> BTreeSet<&'n str> {
        lists.concat().into_iter().collect()
    }

    #[test]
    fn every_program_of_the_guards_object_is_loaded_by_a_list() {
        let object = Object::parse(load::OBJECT).unwrap();
        let hooks = programs(&object, |section| {
            matches!(section, ProgramSection::Lsm { .. })
        });
        assert_eq!(hooks, set(&[HOOKS, &[MMAP_FILE]]));
        let points = programs(&object, |section| {
            matches!(section, ProgramSection::BtfTracePoint)
        });
        assert_eq!(points, set(&[TRACEPOINTS]));
        let run = programs(&object, |section| {
            matches!(section, ProgramSection::RawTracePoint)
        });
        assert_eq!(run, set(&[PINNED_PROGRAMS, &[FIND_SYSCALL_SLOT]]));
        assert_eq!(
            object.programs.len(),
            hooks.len() + points.len() + run.len()
        );
    }

    #[test]
    fn every_program_of_the_monitors_objects_is_loaded_by_a_list() {
        for (object, lists) in [
            (network::OBJECT, network::program_names()),
            (syscalls::OBJECT, syscalls::program_names()),
        ] {
            let object = Object::parse(object).unwrap();
            assert_eq!(programs(&object, |_| true), set(&[&lists, &[OWN_LEVEL]]));
        }
    }

    #[test]
    fn every_map_of_the_guards_object_has_the_types_it_is_opened_with() {
        let object = Object::parse(load::OBJECT).unwrap();
        // (a section of globals is a map, too, and nobody opens it)
        let names = object.maps.keys().map(String::as_str);
        let names: BTreeSet<&str> = names.filter(|name| !name.starts_with('.')).collect();
        assert_eq!(names, set(&[PINNED_MAPS, &ITS_OWN]));
        for (name, key, value) in SIZES {
            let map = &object.maps[*name];
            let sizes = (map.key_size() as usize, map.value_size() as usize);
            assert_eq!(sizes, (*key, *value), "{name}");
        }
    }
}
