//! A container's first process: the one that the container's runtime started, whose environment is the container's.

use std::io;

use super::{Whereabouts, of_living};
use crate::process::{all, cgroup::Id, lines, seen::Seen, text};

/// Bytes of variables that a first process may have: what the kernel takes of them (`_STK_LIM / 4 * 3`).
const LONGEST_ENVIRON: u64 = 6 * 1024 * 1024;

impl Whereabouts {
    /// The process that a container was started with: the oldest in it that its runtime started.
    pub(crate) fn first_of(&self, container: &str) -> io::Result<Option<First>> {
        let look = |pid: u32| -> io::Result<Option<(u64, First)>> {
            let seen = Seen::open(pid)?;
            let found = self.container_of(&seen)?;
            if found.is_none_or(|id| id.container != container)
                || !self.is_started_from_outside(&seen)?
            {
                return Ok(None);
            }
            let started = text::started(&seen.read("stat")?);
            Ok(started.map(|started| (started, First { pid, seen })))
        };
        let mut first: Option<(u64, First)> = None;
        for pid in all()? {
            if let Some(found) = of_living(look(pid))?
                && first.as_ref().is_none_or(|first| found.0 < first.0)
            {
                first = Some(found);
            }
        }
        Ok(first.map(|(_, first)| first))
    }

    /// The container in whose cgroup a process is.
    pub(super) fn container_of(&self, seen: &Seen) -> io::Result<Option<Id>> {
        let cgroup = seen.cgroup()?;
        Ok(cgroup.and_then(|cgroup| cgroup.absolute(&self.root).container(&self.own)))
    }

    /// Whether its parent is outside of our PID namespace, or in no container: then the parent is the container's runtime.
    pub(super) fn is_started_from_outside(&self, seen: &Seen) -> io::Result<bool> {
        let Some(parent) = seen.parent()? else {
            return Ok(false);
        };
        if parent == 0 {
            return Ok(true);
        }
        let is_parent_outside = || -> io::Result<Option<bool>> {
            let runtime = Seen::open(parent)?;
            let has_cgroup = runtime.cgroup()?.is_some();
            Ok(Some(has_cgroup && self.container_of(&runtime)?.is_none()))
        };
        // The parent's pid is read again: if it is the same, no other process had it while we looked.
        Ok(of_living(is_parent_outside())? == Some(true) && seen.parent()? == Some(parent))
    }
}

/// A container's first process.
pub(crate) struct First {
    /// Its pid in the agent's PID namespace.
    pub(crate) pid: u32,
    seen: Seen,
}

impl First {
    /// Its `/proc/<pid>/environ`: the variables that it was started with, each ended by a NUL.
    pub(crate) fn environ(&self) -> io::Result<Vec<u8>> {
        lines::whole(self.seen.file("environ")?, LONGEST_ENVIRON)
    }
}
