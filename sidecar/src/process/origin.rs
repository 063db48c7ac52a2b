//! What an event tells of a process beside its name: the file that it executes, and who started it.
//!
//! Nobody holds such a process, and it may be gone, or its number another's, by the time its event is read: it is looked at by a
//! descriptor of its folder in procfs, and believed if it started before what the event tells.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rustix::fs::readlinkat;
use serde::Serialize;

use super::{TICK_NS, seen::Seen, text};

/// Processes that are looked at in a second. Whoever makes more events than that is known by then, and the thread that looks is
/// the one that delivers.
const LOOKS_PER_SECOND: u32 = 100;
/// Bytes of a path that are told.
const LONGEST_PATH: usize = 4096;

/// As far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Path of the file it executes, as its own mount namespace has it.
    pub(crate) executable: Option<String>,
    /// Who started it, or adopted it since.
    pub(crate) parent: Option<Parent>,
}

/// A process's parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Parent {
    /// Its number in the agent's PID namespace.
    pub(crate) pid: u32,
    /// Its `comm`.
    pub(crate) process: String,
}

impl Origin {
    /// That of the process that has this number and had it at `time_ns` of the monotonic clock; nothing of one that is gone.
    pub(crate) fn of(pid: u32, time_ns: u64) -> Self {
        if pid == 0 {
            return Self::default(); // (it is outside of what we see)
        }
        Self::find(pid, time_ns).unwrap_or_default()
    }

    fn find(pid: u32, time_ns: u64) -> Option<Self> {
        let seen = Seen::open(pid).ok()?;
        let stat = seen.read("stat").ok()?;
        let started = text::started(&stat)?;
        if started > ticks_of_boot(time_ns) {
            return None;
        }
        let path = readlinkat(seen.fd(), "exe", Vec::new()).ok();
        let executable = path
            .filter(|path| path.as_bytes().len() <= LONGEST_PATH)
            .map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned());
        Some(Self {
            executable,
            parent: text::parent_of(&stat).and_then(|pid| parent(pid, started)),
        })
    }

    /// The same without the file: what is about to execute another.
    pub(crate) fn without_executable(self) -> Self {
        Self {
            executable: None,
            ..self
        }
    }
}

/// The process of that number, if it can be the parent of one that started then.
fn parent(pid: u32, child_started: u64) -> Option<Parent> {
    if pid == 0 {
        return None;
    }
    let stat = Seen::open(pid).ok()?.read("stat").ok()?;
    if text::started(&stat)? > child_started {
        return None;
    }
    let process = String::from_utf8_lossy(text::name(&stat)?).into_owned();
    Some(Parent { pid, process })
}

/// A time of the monotonic clock on the boot clock, in ticks.
fn ticks_of_boot(monotonic_ns: u64) -> u64 {
    // Neither can fail; with zero nothing is left out.
    let now = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let asleep = now(ClockId::CLOCK_BOOTTIME).saturating_sub(now(ClockId::CLOCK_MONOTONIC));
    let asleep = u64::try_from(asleep.as_nanos()).unwrap_or(u64::MAX);
    monotonic_ns.saturating_add(asleep) / TICK_NS
}

/// Looks at processes, but not without number.
pub(crate) struct Origins {
    since: Instant,
    looks: u32,
}

impl Origins {
    /// Has looked at none.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            looks: 0,
        }
    }

    /// See [`Origin::of`]; nothing where too many were asked for within a second.
    pub(crate) fn of(&mut self, pid: u32, time_ns: u64) -> Origin {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        if self.looks >= LOOKS_PER_SECOND {
            return Origin::default();
        }
        self.looks += 1;
        Origin::of(pid, time_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::Clock;

    #[test]
    fn origin_of_a_child_is_its_file_and_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let origin = Origin::of(child.id(), Clock::monotonic_ns());
        child.kill().unwrap();
        let executable = origin.executable.unwrap();
        assert!(executable.starts_with('/'), "{executable}");
        assert_eq!(origin.parent.unwrap().pid, std::process::id());
        child.wait().unwrap();
        assert_eq!(
            Origin::of(child.id(), Clock::monotonic_ns()),
            Origin::default()
        );
    }

    #[test]
    fn origin_of_a_process_that_started_after_the_event_is_unknown() {
        assert_eq!(Origin::of(std::process::id(), 1), Origin::default());
    }

    #[test]
    fn origins_beyond_so_many_a_second_are_unknown() {
        let mut origins = Origins::new();
        let mut known = 0;
        for _ in 0..2 * LOOKS_PER_SECOND {
            let origin = origins.of(std::process::id(), Clock::monotonic_ns());
            known += u32::from(origin != Origin::default());
        }
        assert!((1..2 * LOOKS_PER_SECOND).contains(&known), "{known}");
    }
}
