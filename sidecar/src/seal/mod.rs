//! The main job. Read [`Work::handle_held`] from top to bottom: it is the life of a secret.

mod adopt;
mod arrivals;
mod command;
mod crew;
mod deadline;
mod deadline_queue;
mod deferred;
mod deliver;
mod deliver_env;
mod deliver_file;
mod digests;
mod ending;
mod executable;
mod failed_exec;
mod failure;
mod fair;
mod held;
mod memory;
mod mountinfo;
mod pending_exec;
mod provenance;
mod refuse;
mod registers;
mod report;
mod rotate;
mod sealer;
mod stack;
mod tracee;
mod tracer;
mod variables;
mod verify;
mod views;
mod watchdog;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, atomic::AtomicU64},
};

use sidecar_common::{
    policy::{Held, HeldFlags, ScopeId},
    provenance::FileOrigin,
};

use self::{
    adopt::Adoption,
    arrivals::Arrivals,
    command::Commands,
    deadline::Deadline,
    deadline_queue::DeadlineQueue,
    deferred::Deferred,
    deliver_file::{Mounter, Vault},
    digests::Digests,
    failure::Failure,
    held::HeldTask,
    memory::{Fingerprints, Memory},
    rotate::Rotation,
    tracer::Traced,
    verify::{Evidence, Verdict, verify},
};
pub(crate) use self::{
    adopt::TakenAway,
    command::Command,
    crew::Crew,
    digests::Counting,
    sealer::{Sealer, Share},
    variables::StartedWith,
    watchdog::{GivenUp, Turns, Watchdog},
};
use crate::{
    config::{Binding, Config, OnFailure},
    kernel::Maps,
    limits::Reserve,
    observe::{Journal, Metrics},
    process::{Origins, Place, Process, Root, SharedWhereabouts},
    secrets::{Store, Value},
};

/// What a program got.
struct Delivered {
    overrode: Vec<String>,
    note: Option<String>,
    vault: Option<Vault>,
    memory: Memory,
}

/// A sealed tree that lives.
struct Tree {
    /// The name of the process that was given the seal, if it was we who gave it.
    process: Option<String>,
    /// Whether that process lives; its children may without it.
    has_root: bool,
    /// Where that process lived.
    place: Arc<Place>,
    /// What it was given, if it was we who gave it.
    memory: Option<Memory>,
    vaults: Vec<Vault>,
}

/// A secret on its way, with its name and the ways it goes.
struct Secret<'c> {
    binding: &'c Binding,
    name: &'c str,
    value: Value,
    as_env: bool,
    as_file: bool,
}

/// A [`Sealer`] at work.
struct Work {
    share: Share,
    config: Arc<Config>,
    store: Arc<Store>,
    scope: ScopeId,
    whereabouts: SharedWhereabouts,
    maps: Maps,
    journal: Journal,
    metrics: Metrics,
    given_up: GivenUp,
    turns: Turns,
    mounter: Mounter,
    reserve: Reserve,
    digests: RefCell<Digests>,
    trees: BTreeMap<u64, Tree>,
    prints: Fingerprints,
    /// What is to be done at a time.
    due: DeadlineQueue,
    arrivals: Arrivals,
    deadline: Deadline,
    /// What programs that have ended left, and is not taken away yet.
    leaving: VecDeque<Vault>,
    is_taking_away: bool,
    /// How much of what was taken away is to be wiped.
    wiping: usize,
    rotation: Rotation,
    adoption: Option<Adoption>,
    commands: Commands,
    waiting: Vec<Deferred>,
    /// Nothing waits any more.
    is_ending: bool,
    /// Records taken since the ring was last empty.
    taken_in_a_row: usize,
    dropped: u64,
    told_losses: Arc<AtomicU64>,
    origins: Origins,
    started_with: StartedWith,
}

impl Work {
    /// The life of a secret, for one program that a signal has stopped before its first instruction.
    fn handle_held(&mut self, tgid: u32, held: &Held) {
        self.turns.begin(held.seal);
        // (once we are attached there is no way back but its end)
        if !self.reserve.see_to_it() && self.may_wait(held) {
            return self.begin_later(tgid);
        }
        let process = Process::new(held.pid);
        if held.flags.contains(HeldFlags::TRACED) {
            let place = self.place_of(held, process);
            return self.judge_traced(tgid, held, process, &place);
        }
        let task = HeldTask::attach(held, self.dies_with_us());
        let place = self.place_of(held, process);
        match task {
            Ok(task) => self.serve(tgid, held, process, place, task),
            Err(e) => self.refuse(tgid, held, &place, None, &e.into()),
        }
    }

    /// The same for one that we were attached to before its exec, and that stands behind that.
    fn handle_traced(&mut self, tgid: u32, held: &Held, traced: Traced) {
        self.turns.begin(held.seal);
        self.reserve.refill();
        let process = Process::new(held.pid);
        let place = self.place_of(held, process);
        match HeldTask::take(held, traced) {
            Ok(task) => self.serve(tgid, held, process, place, task),
            Err(e) => self.refuse(tgid, held, &place, None, &e.into()),
        }
    }

    /// From here on we are attached.
    fn serve(
        &mut self,
        tgid: u32,
        held: &Held,
        process: Process,
        place: Arc<Place>,
        mut task: HeldTask,
    ) {
        // of this moment: a program lives by one configuration
        let config = self.config.clone();
        let verdict = self.verify(&config, held, process, &place, Some(&task));
        if !matches!(verdict, Verdict::NotYet(_)) {
            self.digests.borrow_mut().forget(held.seal);
        }
        let bindings = match verdict {
            Verdict::Is(bindings) => bindings,
            Verdict::IsNot => return self.let_go(tgid, held, task),
            Verdict::NotYet(why) => return self.let_wait(tgid, held, task, &why.into()),
            Verdict::Refused(refusal) => {
                return self.refuse(tgid, held, &place, Some(task), &refusal.into());
            }
        };
        let secrets = match self.resolve(&bindings) {
            Ok(secrets) => secrets,
            Err(failure) if failure.is_for_lack() && self.may_wait(held) => {
                return self.let_wait(tgid, held, task, &failure);
            }
            Err(failure) => {
                return self.refuse_matched(tgid, held, &place, Some(task), &failure, &bindings);
            }
        };
        let is_kept = self
            .refuse_foreign_code(held, &task, &place, &bindings)
            .and_then(|()| self.keep_to_image(held, process, &bindings));
        if let Err(failure) = is_kept {
            if failure.is_for_lack() && self.may_wait(held) {
                return self.let_wait(tgid, held, task, &failure);
            }
            return self.refuse_matched(tgid, held, &place, Some(task), &failure, &bindings);
        }
        let mut delivered = match self.deliver(held, process, &mut task, &secrets) {
            Ok(delivered) => delivered,
            // (nothing of it is written: the stack comes last)
            Err(failure) if failure.is_for_lack() && self.may_wait(held) => {
                return self.let_wait(tgid, held, task, &failure);
            }
            Err(failure) => {
                return self.refuse_matched(tgid, held, &place, Some(task), &failure, &bindings);
            }
        };
        let maps = &mut self.maps;
        match task.release(|| maps.finish_delivery(tgid, held)) {
            Ok(()) => {}
            Err(e) => {
                self.clean(delivered.vault.take());
                let late = Failure::Late(e);
                return self.refuse_matched(tgid, held, &place, None, &late, &bindings);
            }
        }
        self.sealed(held, place, &bindings, &secrets, delivered);
    }

    /// Where does it live? Says that it was started, too. A place that cannot be told is none that a
    /// selector means.
    fn place_of(&mut self, held: &Held, process: Process) -> Arc<Place> {
        let place = self.whereabouts.lock().of(process, held.cgroup);
        let place = place.unwrap_or_else(|e| Place::unknown(e).into());
        self.report_start(held, &place);
        place
    }

    /// Who is it, really?
    fn verify<'c>(
        &self,
        config: &'c Config,
        held: &Held,
        process: Process,
        place: &Place,
        task: Option<&HeldTask>,
    ) -> Verdict<'c> {
        let stack = task.and_then(|task| task.stack().ok());
        let evidence = Evidence {
            held,
            process,
            place,
            pods: self.whereabouts.pods(),
            // (who is not attached to cannot be waited for)
            may_wait: task.is_some() && self.may_wait(held),
            may_count: task.is_some() && self.is_time_left(held),
            stack: stack.as_ref(),
            is_executed: &|file| is_executed(file, held.seal),
            ask: &where_from,
            digests: &self.digests,
        };
        verify(&evidence, config.secrets.iter())
    }

    /// Whether what we hold is not to outlive us: under a terminal it would go on without secrets.
    fn dies_with_us(&self) -> bool {
        self.config.policy.on_failure == OnFailure::Deny
    }
}

/// Whether an open file is the script that was executed when that seal was given.
fn is_executed(file: BorrowedFd<'_>, seal: u64) -> io::Result<bool> {
    Ok(Maps::is_executed(file, seal)?)
}

/// Asks the kernel side where a file comes from, of a process with that root.
fn where_from(file: BorrowedFd<'_>, root: &Root) -> io::Result<FileOrigin> {
    Ok(Maps::provenance(file, root.as_fd(), root.namespace)?)
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}
