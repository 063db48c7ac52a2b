//! What user space and the kernel object agree on by name: programs, and maps with the types of their keys and values. A test
//! compares each list with the object that was built, so that a hook which nothing attaches, or a map of another shape,
//! fails the build and not the guard.

use std::marker::PhantomData;

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

/// A map of the kernel side, with the types of its keys and values: it cannot be opened as another.
pub(super) struct MapDef<K, V> {
    pub(super) name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

/// Declares the maps of an object that user space opens, and lists them with the sizes of their keys and values.
macro_rules! maps {
    ($($(#[$about:meta])* $NAME:ident $(as $name:literal)?: $Key:ty => $Value:ty;)*) => {
        $(
            $(#[$about])*
            pub(in crate::kernel) const $NAME: MapDef<$Key, $Value> = MapDef {
                name: maps!(@name $NAME $($name)?),
                types: std::marker::PhantomData,
            };
        )*

        /// The names of all of them.
        #[allow(dead_code, reason = "only those of pinned maps are listed outside of tests")]
        pub(in crate::kernel) const MAPS: &[&str] = &[$(maps!(@name $NAME $($name)?)),*];

        #[cfg(test)]
        pub(super) const SIZES: &[(&str, usize, usize)] = &[
            $((maps!(@name $NAME $($name)?), size_of::<$Key>(), size_of::<$Value>())),*
        ];
    };
    (@name $NAME:ident $name:literal) => { $name };
    (@name $NAME:ident) => { stringify!($NAME) };
}

/// The pinned maps, which every agent of a node opens.
pub(super) mod pinned {
    use sidecar_common::{
        layout::NAME_LEN,
        policy::{
            BindingKey, Counters, Held, Maker, OwnObject, RingKey, Scope, ScopeId, Sealed, Vault,
        },
    };

    use super::MapDef;

    maps! {
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
        /// What [`OWN_CGROUP`](super::OWN_CGROUP) answers.
        CGROUP_NAME: u32 => [u8; NAME_LEN];
        /// Our own maps, programs and links.
        OWN_OBJECTS: OwnObject => u8;
    }
}

/// The maps of the network monitor's object.
pub(super) mod network {
    use aya::maps::lpm_trie::Key;
    use sidecar_common::network::{Settings, UdpFlow, UdpKey};

    use super::MapDef;

    maps! {
        /// What is asked of it: a global variable, of which the kernel makes a map that is called as its section is.
        SETTINGS as ".data.settings": u32 => Settings;
        /// A bit for every port.
        PORTS: u32 => u64;
        /// Networks that a filter names.
        CIDRS: Key<[u8; 16]> => u8;
        /// UDP flows that are followed.
        UDP_FLOWS: UdpKey => UdpFlow;
        /// Sockets whose end is reported.
        SOCKETS: u64 => u32;
        /// Counters of what was lost.
        LOST: u32 => u64;
    }
}

/// The maps of the system call monitor's object.
pub(super) mod syscalls {
    use sidecar_common::syscall::{Call, Rate, Settings};

    use super::MapDef;

    maps! {
        /// What is asked of it, as [`network::SETTINGS`](super::network::SETTINGS).
        SETTINGS as ".data.settings": u32 => Settings;
        /// How each call is watched, by its number.
        CALLS: u32 => Call;
        /// Users whose calls are watched.
        UIDS: u32 => u8;
        /// What was judged of control groups.
        GROUPS: u64 => u32;
        /// What control groups had of the second that runs.
        RATES: u64 => Rate;
        /// Counters of what was lost.
        LOST: u32 => u64;
    }
}

/// The monitors' ring of records.
pub(super) const RECORDS: &str = "RECORDS";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya_obj::{Object, ProgramSection};

    use super::*;
    use crate::kernel::{self, load, parts::OWN_LEVEL};

    /// Maps that each object has for itself.
    const GUARDS_OWN: &[&str] = &[
        "ENDED",
        "INITS",
        "MOUNTED_BELOW",
        "PENDING",
        "SCRIPTS",
        "SEALED_COUNT",
        "SEALED_FILTER",
        "SYSCALL_SLOT",
    ];
    const NETWORKS_OWN: &[&str] = &["CONNECTING", "PLACES_TOLD", RECORDS, "UDP_UNWANTED"];
    const SYSCALLS_OWN: &[&str] = &["EXECS", "PLACES_TOLD", RECORDS, "SCRATCH", "THREADS"];

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
            (kernel::network::OBJECT, kernel::network::program_names()),
            (kernel::syscalls::OBJECT, kernel::syscalls::program_names()),
        ] {
            let object = Object::parse(object).unwrap();
            assert_eq!(programs(&object, |_| true), set(&[&lists, &[OWN_LEVEL]]));
        }
    }

    #[test]
    fn every_map_has_the_types_it_is_opened_with() {
        for (object, opened, its_own, sizes) in [
            (load::OBJECT, pinned::MAPS, GUARDS_OWN, pinned::SIZES),
            (
                kernel::network::OBJECT,
                network::MAPS,
                NETWORKS_OWN,
                network::SIZES,
            ),
            (
                kernel::syscalls::OBJECT,
                syscalls::MAPS,
                SYSCALLS_OWN,
                syscalls::SIZES,
            ),
        ] {
            let object = Object::parse(object).unwrap();
            // (a section of globals is a map, too, and most are opened by nobody)
            let names = object.maps.keys().map(String::as_str);
            let names: BTreeSet<&str> = names
                .filter(|name| !name.starts_with('.') || opened.contains(name))
                .collect();
            assert_eq!(names, set(&[opened, its_own]));
            for (name, key, value) in sizes {
                let map = &object.maps[*name];
                let found = (map.key_size() as usize, map.value_size() as usize);
                assert_eq!(found, (*key, *value), "{name}");
            }
        }
    }
}
