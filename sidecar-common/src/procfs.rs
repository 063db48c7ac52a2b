//! The files of a process's folder in procfs that are guarded. This table is the only place that names one: the kernel side's
//! comparisons, its quick look at a name, and the series of metrics are made of it.

/// Gives the table to a macro, which makes of it what its side needs.
///
/// A row is `NAME "name": what it shows, the policy's switch;`. Of an open file the content is that of the moment when it was opened;
/// a folder lists what there is now, so that each listing is asked about, too.
#[macro_export]
macro_rules! guarded_files {
    ($with:ident) => {
        $with! {
            files {
                ENVIRON "environ": WHAT_ENVIRON, BLOCK_ENVIRON;
                MEM "mem": WHAT_MEM, BLOCK_MEM;
                // registers, arguments, descriptors and a core dump are as good as memory
                STACK "stack": WHAT_MEM, BLOCK_MEM;
                SYSCALL "syscall": WHAT_MEM, BLOCK_MEM;
                CLEAR_REFS "clear_refs": WHAT_MEM, BLOCK_MEM;
                COREDUMP_FILTER "coredump_filter": WHAT_MEM, BLOCK_MEM;
                MAPS "maps": WHAT_MAPS, BLOCK_MAPS;
                SMAPS "smaps": WHAT_MAPS, BLOCK_MAPS;
                SMAPS_ROLLUP "smaps_rollup": WHAT_MAPS, BLOCK_MAPS;
                NUMA_MAPS "numa_maps": WHAT_MAPS, BLOCK_MAPS;
                PAGEMAP "pagemap": WHAT_MAPS, BLOCK_MAPS;
                AUXV "auxv": WHAT_MAPS, BLOCK_MAPS;
            }
            folders {
                FD "fd": WHAT_MEM, BLOCK_MEM;
                FDINFO "fdinfo": WHAT_MEM, BLOCK_MEM;
                MAP_FILES "map_files": WHAT_MAPS, BLOCK_MAPS;
            }
        }
    };
}
