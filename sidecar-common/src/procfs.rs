//! The files of a process's folder in procfs that are guarded. This table is the only place that names one: the kernel side's
//! comparisons, its quick look at a name, and the series of metrics are made of it.

/// Gives the table to a macro, which makes of it what its side needs.
///
/// A row is `NAME "name": what it shows, the policy's switch;`. What it shows is an [`AccessKind`](crate::event::AccessKind).
/// Of an open file the content is that of the moment when it was opened; a folder lists what there is now, so that each listing is
/// asked about, too.
#[macro_export]
macro_rules! guarded_files {
    ($with:ident) => {
        $with! {
            files {
                ENVIRON "environ": Environ, BLOCK_ENVIRON;
                MEM "mem": Mem, BLOCK_MEM;
                // registers, arguments, descriptors and a core dump are as good as memory
                STACK "stack": Mem, BLOCK_MEM;
                SYSCALL "syscall": Mem, BLOCK_MEM;
                CLEAR_REFS "clear_refs": Mem, BLOCK_MEM;
                COREDUMP_FILTER "coredump_filter": Mem, BLOCK_MEM;
                MAPS "maps": Maps, BLOCK_MAPS;
                SMAPS "smaps": Maps, BLOCK_MAPS;
                SMAPS_ROLLUP "smaps_rollup": Maps, BLOCK_MAPS;
                NUMA_MAPS "numa_maps": Maps, BLOCK_MAPS;
                PAGEMAP "pagemap": Maps, BLOCK_MAPS;
                AUXV "auxv": Maps, BLOCK_MAPS;
            }
            folders {
                FD "fd": Mem, BLOCK_MEM;
                FDINFO "fdinfo": Mem, BLOCK_MEM;
                MAP_FILES "map_files": Maps, BLOCK_MAPS;
            }
        }
    };
}
