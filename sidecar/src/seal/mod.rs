//! The main job. Read [`Work::live`] from top to bottom: it is the life of a secret.

mod adopt;
mod arrivals;
mod command_queue;
mod crew;
mod deadline;
mod deadline_queue;
mod deferred;
mod deliver_env;
mod deliver_file;
mod digests;
mod ending;
mod executable;
mod failed_exec;
mod failure;
mod fair;
mod held;
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
mod variables;
mod verify;
mod views;
mod watchdog;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
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
    command_queue::CommandQueue,
    deadline::Deadline,
    deadline_queue::DeadlineQueue,
    deferred::Deferred,
    deliver_env::DIR_VARIABLE,
    deliver_file::{Mounter, SecretFile, Vault},
    digests::Digests,
    failure::Failure,
    held::HeldTask,
    rotate::{Memory, Prints, Rotation},
    stack::Variable,
    tracee::Traced,
    verify::{Evidence, Refusal, Verdict, verify},
};
pub(crate) use self::{
    adopt::TakenAway,
    command_queue::Command,
    crew::Crew,
    digests::Counting,
    sealer::{Sealer, Share},
    variables::StartedWith,
    watchdog::{GivenUp, Turns, Watchdog},
};
use crate::{
    config::{Binding, Config, OnFailure, Provenance},
    kernel::{self, Maps},
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
    trees: HashMap<u64, Tree>,
    prints: Prints,
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
    commands: CommandQueue,
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

    /// Looks up every secret of the bindings. All of them, or none.
    fn resolve<'c>(&self, bindings: &[&'c Binding]) -> Result<Vec<Secret<'c>>, Failure> {
        if kernel::ask_hook() == kernel::Answer::Silent {
            return Err(Failure::Unguarded);
        }
        let mut secrets: Vec<Secret<'c>> = Vec::new();
        for binding in bindings {
            for secret in &binding.secret_refs {
                let (as_env, as_file) = (binding.delivery.env, binding.delivery.file);
                // two bindings may give the same secret; the configuration has seen to it that it
                // is from the same source
                if let Some(known) = secrets.iter_mut().find(|known| known.name == secret.name) {
                    known.as_env |= as_env;
                    known.as_file |= as_file;
                    continue;
                }
                let Some(value) = self.store.find(&secret.source)? else {
                    continue;
                };
                secrets.push(Secret {
                    binding,
                    name: &secret.name,
                    value,
                    as_env,
                    as_file,
                });
            }
        }
        Ok(secrets)
    }

    /// Variables must not bring other code into it than its container was started with.
    fn refuse_foreign_code(
        &mut self,
        held: &Held,
        task: &HeldTask,
        place: &Place,
        bindings: &[&Binding],
    ) -> Result<(), Failure> {
        let stack = task.stack()?;
        let is_allowed = |name: &str| {
            let mut bindings = bindings.iter();
            bindings.all(|binding| binding.allow_variables.iter().any(|known| known == name))
        };
        if let Some(name) = variables::of_loader(&stack).find(|name| !is_allowed(name)) {
            return Err(Refusal::Preload(name).into());
        }
        let foreign = variables::of_interpreters(&stack);
        let foreign: Vec<_> = foreign.filter(|found| !is_allowed(found.name)).collect();
        let Some(first) = foreign.first() else {
            return Ok(());
        };
        let other = match &place.container {
            None => Some(first.name),
            Some(container) => self
                .started_with
                .find_other(&container.id, &foreign, held.pid, &self.whereabouts)
                .map_err(|cause| Refusal::Unknown {
                    what: "what its container was started with could not be looked at, and variables are set that bring code",
                    cause,
                })?,
        };
        other.map_or(Ok(()), |name| Err(Refusal::Interpreter(name).into()))
    }

    /// Of some programs all code comes from their image, from their first library on.
    fn keep_to_image(
        &mut self,
        held: &Held,
        process: Process,
        bindings: &[&Binding],
    ) -> Result<(), Failure> {
        let mut bindings = bindings.iter();
        let wanted = Some(Provenance::ImageAndLibraries);
        if let Some(binding) = bindings.find(|binding| binding.selector.provenance == wanted) {
            self.maps.keep_to_image(held.seal)?;
            provenance::check_code(process, &where_from, binding)?;
        }
        Ok(())
    }

    /// Files first, then variables.
    fn deliver(
        &mut self,
        held: &Held,
        process: Process,
        task: &mut HeldTask,
        secrets: &[Secret<'_>],
    ) -> Result<Delivered, Failure> {
        let mut delivered = Delivered {
            overrode: Vec::new(),
            note: None,
            vault: None,
            memory: Memory::of(held, &self.config, secrets, &self.prints),
        };
        // (before there is a secret in it that a neighbour may guess)
        if held.flags.contains(HeldFlags::MERGED) {
            task.stop_merging(process, self.dies_with_us())?;
        }
        let mut variables: Vec<Variable<'_>> = Vec::with_capacity(secrets.len() + 1);
        for secret in secrets.iter().filter(|secret| secret.as_env) {
            match deliver_env::check(secret.name, &secret.value) {
                Ok(()) => {
                    variables.push(Variable {
                        name: secret.name,
                        value: secret.value.expose(),
                    });
                }
                // what a variable cannot hold is still there as a file
                Err(e) if secret.as_file => delivered.note = Some(e.to_string()),
                Err(e) => return Err(e.into()),
            }
        }
        let files: Vec<_> = secrets
            .iter()
            .filter(|secret| secret.as_file)
            .map(|secret| SecretFile {
                name: secret.name,
                value: &secret.value,
                binding: &secret.binding.name,
                access: Some(secret.binding.file),
            })
            .collect();
        let directory;
        if !files.is_empty() {
            // guarded before there is a file in it
            self.maps.mount_for(self.scope, held.seal)?;
            let vault;
            (vault, directory) = self.mounter.mount(held, &files)?;
            delivered.vault = Some(vault);
            variables.push(Variable {
                name: DIR_VARIABLE,
                value: directory.as_bytes(),
            });
        }
        // The stack is written when nothing else can fail.
        let written = process
            .exclude_from_core_dumps()
            .map_err(|cause| {
                Failure::Identity(Refusal::Unknown {
                    what: "its core dumps (the agent needs CAP_SYS_RESOURCE and CAP_DAC_OVERRIDE)",
                    cause,
                })
            })
            .and_then(|()| Ok(deliver_env::deliver(task, process, &variables)?));
        match written {
            Ok(overrode) => delivered.overrode = overrode,
            Err(failure) => {
                self.clean(delivered.vault.take());
                return Err(failure);
            }
        }
        Ok(delivered)
    }
}

/// Whether an open file is the script that was executed when that seal was given; not, where that cannot be said.
fn is_executed(file: BorrowedFd<'_>, seal: u64) -> bool {
    Maps::is_executed(file, seal).unwrap_or_else(|e| {
        tracing::warn!("{e}");
        false
    })
}

/// Asks the kernel side where a file comes from, of a process with that root.
fn where_from(file: BorrowedFd<'_>, root: &Root) -> io::Result<FileOrigin> {
    Maps::provenance(file, root.as_fd(), root.namespace).map_err(io::Error::other)
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}
