//! A program's core dumps: there are none, and where the program allows itself some, its memory is not in them.

use std::{
    fs,
    io::{self, Write as _},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::Process;

/// A limit below the size of any dump. With this value, and no other, the kernel dumps nothing to a pipe either (core(5)).
const NO_DUMP: u64 = 1;

impl Process {
    /// Sets its soft `RLIMIT_CORE` to 1. The hard limit stays as it was.
    pub(crate) fn stop_core_dumps(self) -> io::Result<()> {
        let limit = |maximum| {
            let limit = Rlimit {
                current: Some(NO_DUMP),
                maximum,
            };
            // (without a number it would be our own)
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
            prlimit(Some(pid), Resource::Core, limit).map_err(io::Error::from)
        };
        // Only a change tells what the hard limit was.
        let before = limit(Some(NO_DUMP))?.maximum;
        if before != Some(NO_DUMP) {
            limit(before.map(|hard| hard.max(NO_DUMP)))?;
        }
        Ok(())
    }

    /// Leaves all its memory out of its core dumps (`coredump_filter`, core(5)); its children's and of what it executes, too.
    pub(crate) fn leave_memory_out_of_core_dumps(self) -> io::Result<()> {
        // (not fs::write: it truncates what it opens, and every start would pay for that)
        let mut filter = fs::OpenOptions::new()
            .write(true)
            .open(self.file("coredump_filter"))?;
        filter.write_all(b"0")
    }
}
