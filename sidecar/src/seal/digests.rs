//! Digests of what programs execute, counted by threads of their own: a file may be as long as somebody likes, and others wait
//! for the thread that delivers.
//!
//! Turns go round: by the control group and the user of who executes it, and by binding, one after the other. No control group,
//! user (but root, who is many) or binding has all threads, and no binding all but one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
};

use sidecar_common::policy::Held;

use super::is_executed;
use super::{Command, Commands};
use crate::process::{Content, FileId, Process, ReadVersion, Script, Version};

/// A longer file is not read, in bytes. (The longest programs that are known have some hundred megabytes.)
pub(crate) const LONGEST: u64 = 1024 * 1024 * 1024;
/// Threads that count: as many as there are processors, but so many at least, or one file would keep others waiting.
const LEAST_WORKERS: usize = 4;
const MOST_WORKERS: usize = 8;
/// A thread's stack, in bytes.
const STACK: usize = 128 * 1024;
/// Digests that are remembered.
const REMEMBERED: usize = 256;

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// What a process executes.
    Executable,
    /// The script that it was given, at that path.
    Script(PathBuf, FileId),
}

/// Whose turn it is: control group, user, binding.
type Owner = (u64, u32, String);

/// A digest, or why there is none.
type Outcome = Arc<io::Result<Content>>;

/// What is known of a digest.
pub(super) enum Known {
    /// It was counted.
    Counted(Outcome),
    /// It is being counted, or waits for its turn.
    NotYet,
}

/// The threads that count, for all that deliver; they end when it is dropped.
pub(crate) struct Counting {
    shared: Arc<Shared>,
    workers: usize,
}

/// What one thread that delivers has counted.
pub(super) struct Digests {
    counting: Arc<Counting>,
    /// For programs that are held, by their seals. Dropped, nobody waits for it.
    held: HashMap<u64, Vec<Wanted>>,
    commands: Commands,
}

struct Wanted {
    target: Target,
    slot: Arc<Slot>,
}

/// Where an outcome is put.
#[derive(Default)]
struct Slot(Mutex<Option<Outcome>>);

struct Job {
    seal: u64,
    process: Process,
    target: Target,
    /// Of an executable, as it was when it was asked for.
    version: Option<Version>,
    slot: Weak<Slot>,
    /// Who is told.
    commands: Commands,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    given: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Owner, VecDeque<Job>>,
    /// Who had the last turn.
    last: Option<Owner>,
    /// Whose files are being read.
    running: Vec<Owner>,
    workers: usize,
    remembered: HashMap<Version, Outcome>,
    is_over: bool,
}

impl State {
    /// The next whose turn it is. As long as others may come, nobody has the last thread too.
    fn next(&mut self) -> Option<(Owner, Job)> {
        let is_free = |owner: &Owner| {
            let leaves = |left: usize, is: fn(&Owner, &Owner) -> bool| {
                let most = self.workers.saturating_sub(left).max(1);
                self.running.iter().filter(|one| is(one, owner)).count() < most
            };
            leaves(1, |a, b| a.0 == b.0)
                && leaves(1, |a, b| a.1 == b.1 && a.1 != 0)
                && leaves(2, |a, b| a.2 == b.2)
        };
        let after = self.last.as_ref();
        let mut later = self
            .waiting
            .keys()
            .filter(|owner| after.is_none_or(|last| *owner > last));
        let owner = later
            .find(|owner| is_free(owner))
            .or_else(|| self.waiting.keys().find(|owner| is_free(owner)))?
            .clone();
        let jobs = self.waiting.get_mut(&owner)?;
        let job = jobs.pop_front()?;
        if jobs.is_empty() {
            self.waiting.remove(&owner);
        }
        self.last = Some(owner.clone());
        self.running.push(owner.clone());
        Some((owner, job))
    }
}

impl State {
    /// Others that wait execute the very same file: nobody may write to it since they do.
    fn tell_others(&mut self, version: Version, outcome: &Outcome) {
        for jobs in self.waiting.values_mut() {
            jobs.retain(|job| {
                let is_same = job.version == Some(version);
                if is_same && let Some(slot) = job.slot.upgrade() {
                    slot.put(outcome);
                    job.tell();
                }
                !is_same
            });
        }
        self.waiting.retain(|_, jobs| !jobs.is_empty());
    }

    fn remember(&mut self, version: Version, outcome: Outcome) {
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(version, outcome);
    }
}

impl Slot {
    fn put(&self, outcome: &Outcome) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.clone());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts, one after the other, until it is over.
    fn work(&self) {
        let mut state = self.state();
        loop {
            if state.is_over {
                return;
            }
            let Some((owner, job)) = state.next() else {
                state = self
                    .given
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let counted = job.count();
            state = self.state();
            if let Some(at) = state.running.iter().position(|one| *one == owner) {
                state.running.swap_remove(at);
            }
            if let Some((outcome, read)) = counted {
                if let Some((version, tells)) = read {
                    state.tell_others(version, &outcome);
                    if tells {
                        state.remember(version, outcome);
                    }
                }
                job.tell();
            }
            // (whoever was not to have all threads may have one now)
            self.given.notify_all();
        }
    }
}

impl Job {
    /// There is something to look at.
    fn tell(&self) {
        // (the thread that is told may be at its end)
        let _ = self.commands.give(Command::Look(self.seal));
    }

    fn is_wanted(&self) -> bool {
        self.slot.strong_count() > 0
    }

    /// Nothing where nobody waits for it any more; of an executable with the version that was read, and whether that tells of
    /// every change. (A script is no executable: others may write to it while it runs.)
    fn count(&self) -> Option<(Outcome, ReadVersion)> {
        let is_wanted = || self.is_wanted();
        let content = match &self.target {
            Target::Executable => self.process.executable_content(LONGEST, is_wanted),
            Target::Script(path, id) => {
                let is_executed = |file: BorrowedFd<'_>| is_executed(file, self.seal);
                let script = Script {
                    id: *id,
                    is_executed: &is_executed,
                };
                let content = self.process.script(path, script, LONGEST, is_wanted);
                content.map(|content| content.map(|content| (content, None)))
            }
        };
        let (outcome, read) = match content {
            Ok(None) => return None,
            Ok(Some((content, read))) => (Ok(content), read),
            Err(e) => (Err(e), None),
        };
        let outcome = Arc::new(outcome);
        self.slot.upgrade()?.put(&outcome);
        Some((outcome, read))
    }
}

impl Digests {
    /// For a thread that delivers, which is given its orders there.
    pub(super) fn new(counting: Arc<Counting>, commands: Commands) -> Self {
        Self {
            counting,
            held: HashMap::new(),
            commands,
        }
    }

    /// What is known of the digest of what a held program executes. Where it is not, [`Command::Look`] says when it is.
    pub(super) fn look_up(
        &mut self,
        held: &Held,
        binding: &str,
        target: &Target,
    ) -> io::Result<Known> {
        let process = Process::new(held.pid);
        let wanted = self.held.get(&held.seal).into_iter().flatten();
        if let Some(wanted) = wanted.into_iter().find(|wanted| wanted.target == *target) {
            let outcome = wanted.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(outcome.clone().map_or(Known::NotYet, Known::Counted));
        }
        let version = match target {
            Target::Executable => Some(process.executable_version()?),
            Target::Script(..) => None,
        };
        if let Some(version) = version
            && let Some(outcome) = self.counting.shared.state().remembered.get(&version)
        {
            return Ok(Known::Counted(outcome.clone()));
        }
        self.counting.start_workers()?;
        let slot = Arc::new(Slot::default());
        let job = Job {
            seal: held.seal,
            process,
            target: target.clone(),
            version,
            slot: Arc::downgrade(&slot),
            commands: self.commands.clone(),
        };
        let wanted = Wanted {
            target: target.clone(),
            slot,
        };
        self.held.entry(held.seal).or_default().push(wanted);
        let owner = (held.cgroup, held.uid, binding.to_owned());
        let shared = &self.counting.shared;
        let mut state = shared.state();
        state.waiting.entry(owner).or_default().push_back(job);
        drop(state);
        shared.given.notify_one();
        Ok(Known::NotYet)
    }

    /// Nobody waits for a program's digest any more.
    pub(super) fn forget(&mut self, seal: u64) {
        self.held.remove(&seal);
    }
}

impl Counting {
    pub(crate) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            shared: Arc::default(),
            workers: processors.clamp(LEAST_WORKERS, MOST_WORKERS),
        }
    }

    /// When the first is needed: most configurations have no digest.
    fn start_workers(&self) -> io::Result<()> {
        // (one at a time: another thread may be here, too)
        let mut state = self.shared.state();
        while state.workers < self.workers {
            let shared = self.shared.clone();
            let started = thread::Builder::new()
                .name("digests".into())
                .stack_size(STACK)
                .spawn(move || shared.work());
            match started {
                Ok(_) => state.workers += 1,
                Err(_) if state.workers > 0 => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.given.notify_all();
    }
}

#[cfg(test)]
mod tests;
