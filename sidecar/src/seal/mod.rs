//! The main job. Read [`Sealer::live`] from top to bottom: it is the life of a secret.

mod deliver_env;
mod deliver_file;
mod held;
mod stack;
mod verify;
mod watchdog;

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsString,
    io,
    os::{fd::AsFd as _, unix::ffi::OsStringExt as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use sidecar_common::{
    event::{EXIT_LAST, EXIT_ROOT, Exit},
    policy::{HELD_TRACED, Held, ScopeId, Vault as VaultOwner},
};

pub(crate) use self::watchdog::{GivenUp, Watchdog};
use self::{
    deliver_env::{DIR_VARIABLE, EnvError},
    deliver_file::{FileError, Mounter, Prepared, Vault},
    held::{Announce, HeldTask, HoldError},
    stack::{StackError, Variable},
    verify::{Evidence, Refusal, Verdict, verify},
};
use crate::{
    config::{Binding, Config, OnFailure},
    kernel::{self, Maps, Record, Ring},
    observe::{Action, Clock, Detail, Journal, Kind, Metrics},
    process::Process,
    secrets::{SourceError, Store, Value},
};

/// How long after its last process a tree's files are wiped. Not at once: what was sent from them
/// without copying (`sendfile` into a pipe) is still these very pages until it is read.
const WIPE_AFTER: Duration = Duration::from_secs(2);

/// Why a program did not get its secrets.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Identity(#[from] Refusal),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("environment: {0}")]
    Env(#[from] EnvError),
    #[error("files: {0}")]
    File(#[from] FileError),
    #[error("hold: {0}")]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

impl From<StackError> for Failure {
    fn from(error: StackError) -> Self {
        Self::Env(error.into())
    }
}

/// What a program got.
#[derive(Default)]
struct Delivered {
    overrode: Vec<String>,
    note: Option<String>,
    vault: Option<Vault>,
}

/// A sealed tree that lives.
struct Tree {
    /// Who was given the seal: its number in our PID namespace.
    pid: u32,
    process: String,
    vault: Option<Vault>,
}

/// A secret on its way, with its name and the ways it goes.
struct Secret<'c> {
    name: &'c str,
    value: Value,
    as_env: bool,
    as_file: bool,
}

/// The thread that delivers. All attaching is done by it: a tracer is a thread, not a process.
pub(crate) struct Sealer {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) scope: ScopeId,
    pub(crate) maps: Maps,
    pub(crate) ring: Ring,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
    pub(crate) given_up: GivenUp,
}

/// A [`Sealer`] at work.
struct Work<'c> {
    config: &'c Config,
    store: &'c Store,
    scope: ScopeId,
    maps: Maps,
    journal: Journal,
    metrics: Metrics,
    given_up: GivenUp,
    mounter: Mounter,
    trees: HashMap<u64, Tree>,
    /// Taken away, and to be wiped at a time.
    unmounted: VecDeque<(Instant, Vault)>,
    dropped: u64,
}

impl Sealer {
    /// Delivers until `stop` is signalled, and then whatever is still held.
    pub(crate) fn run(self, stop: &EventFd) -> io::Result<()> {
        let Self {
            config,
            store,
            scope,
            maps,
            mut ring,
            journal,
            metrics,
            given_up,
        } = self;
        let mut work = Work {
            config: &config,
            store: &store,
            scope,
            dropped: maps.counters(scope).dropped,
            maps,
            journal,
            metrics,
            given_up,
            mounter: Mounter::new()?,
            trees: HashMap::new(),
            unmounted: VecDeque::new(),
        };
        // what an agent before us left held
        work.catch_up();
        work.journal.flush();
        loop {
            let mut fds = [
                PollFd::new(ring.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, work.until_next_wipe()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let is_stopping = fds[1].any() == Some(true);
            work.wipe_due();
            while let Some(record) = ring.next() {
                work.take(record);
            }
            work.notice_losses();
            work.journal.flush();
            if is_stopping {
                work.catch_up();
                work.journal.flush();
                return Ok(());
            }
        }
    }
}

impl<'c> Work<'c> {
    fn take(&mut self, record: Record) {
        match record {
            Record::Held(header) => match self.maps.held(header.tgid) {
                Ok(Some(held)) => self.live(header.tgid, &held),
                Ok(None) => {} // it ended, or was dealt with already
                Err(e) => tracing::error!("{e}"),
            },
            Record::Access(access) => self.report_access(&access),
            Record::Exit(exit) => self.end(&exit),
            Record::Exec(exec) => {
                let uid = exec.subject.uid;
                let name = text(&exec.name);
                self.journal.emit(
                    exec.header.time_ns,
                    Kind::Exec,
                    exec.subject.pid,
                    &name,
                    Detail::Exec { uid },
                );
            }
            Record::Refused(exec) => {
                let reason = match exec.reason {
                    sidecar_common::event::REASON_SEALED_FULL => {
                        "the kernel side's map of sealed processes is full"
                    }
                    sidecar_common::event::REASON_HELD_FULL => {
                        "the kernel side cannot hold more programs at a time"
                    }
                    _ => "the kernel side refused it",
                };
                self.metrics.refused.inc();
                let detail = Detail::Refused {
                    reason,
                    action: Action::Killed,
                };
                self.journal.emit(
                    exec.header.time_ns,
                    Kind::Refused,
                    exec.subject.pid,
                    &text(&exec.name),
                    detail,
                );
            }
            Record::Unknown => {
                tracing::error!("a record from the kernel side is not of this version");
            }
        }
    }

    /// The life of a secret, for one program that stands before its first instruction.
    fn live(&mut self, tgid: u32, held: &Held) {
        let name = text(&held.name);
        self.metrics.exec_events.inc();
        self.journal.emit(
            held.since_ns,
            Kind::Exec,
            held.pid,
            &name,
            Detail::Exec { uid: held.uid },
        );
        let process = Process::new(held.pid);

        if held.flags & HELD_TRACED != 0 {
            return self.judge_traced(tgid, held, process);
        }
        let mut task = match self.attach(tgid, held) {
            Ok(task) => task,
            Err(failure) => return self.refuse(tgid, held, None, &failure),
        };
        let bindings = match self.verify(tgid, held, process, Some(&task)) {
            Verdict::Is(bindings) => bindings,
            Verdict::IsNot => return self.let_go(tgid, held, task),
            Verdict::Refused(refusal) => {
                return self.refuse(tgid, held, Some(task), &refusal.into());
            }
        };
        let secrets = match self.resolve(&task, &bindings) {
            Ok(secrets) => secrets,
            Err(failure) => return self.refuse(tgid, held, Some(task), &failure),
        };
        let mut delivered = match self.deliver(held, process, &mut task, &secrets) {
            Ok(delivered) => delivered,
            Err(failure) => return self.refuse(tgid, held, Some(task), &failure),
        };
        let maps = &mut self.maps;
        match task.release(|| maps.forget_held(tgid)) {
            Ok(()) => {}
            Err(e) => {
                self.clean(delivered.vault.take());
                return self.refuse(tgid, held, None, &e.into());
            }
        }
        self.sealed(held, &bindings, &secrets, delivered);
    }

    /// Who is it, really?
    fn verify(
        &self,
        tgid: u32,
        held: &Held,
        process: Process,
        task: Option<&HeldTask>,
    ) -> Verdict<'c> {
        let path = task
            .and_then(|task| task.stack().ok()?.execfn_path().map(<[u8]>::to_vec))
            .map(|path| PathBuf::from(OsString::from_vec(path)));
        let evidence = Evidence {
            held,
            process,
            path: path.as_deref(),
            is_held: &|| matches!(self.maps.held(tgid), Ok(Some(_))),
        };
        let config = self.config;
        verify(&evidence, config.secrets.iter())
    }

    /// A traced program cannot be attached to; it gets nothing, and if it is one of ours it does
    /// not start.
    fn judge_traced(&mut self, tgid: u32, held: &Held, process: Process) {
        match self.verify(tgid, held, process, None) {
            Verdict::Refused(refusal) => self.refuse(tgid, held, None, &refusal.into()),
            Verdict::Is(_) | Verdict::IsNot => self.let_go_unattached(tgid, held),
        }
    }

    /// Takes hold of the program.
    fn attach(&mut self, tgid: u32, held: &Held) -> Result<HeldTask, Failure> {
        struct ToKernel<'a>(&'a mut Maps, u32, &'a Held);
        impl Announce for ToKernel<'_> {
            fn seized(&mut self) -> Result<(), HoldError> {
                let Self(maps, tgid, held) = self;
                maps.tell_seized(*tgid, held).map_err(|_| HoldError::Gone)
            }

            fn reexec(&mut self) -> Result<(), HoldError> {
                let Self(maps, tgid, held) = self;
                maps.expect_reexec(*tgid, held).map_err(|_| HoldError::Gone)
            }
        }
        Ok(HeldTask::attach(
            held,
            &mut ToKernel(&mut self.maps, tgid, held),
        )?)
    }

    /// Looks up every secret of the bindings. All of them, or none.
    fn resolve(
        &self,
        task: &HeldTask,
        bindings: &[&'c Binding],
    ) -> Result<Vec<Secret<'c>>, Failure> {
        if let Some(variable) = task.stack()?.preload() {
            return Err(Refusal::Preload(variable).into());
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
                let value = self.store.get(&secret.source)?;
                secrets.push(Secret {
                    name: &secret.name,
                    value,
                    as_env,
                    as_file,
                });
            }
        }
        Ok(secrets)
    }

    /// Files first, then variables: the stack is written when nothing else can fail.
    fn deliver(
        &mut self,
        held: &Held,
        process: Process,
        task: &mut HeldTask,
        secrets: &[Secret<'_>],
    ) -> Result<Delivered, Failure> {
        let mut delivered = Delivered::default();
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
            .map(|secret| (secret.name, &secret.value))
            .collect();
        let directory;
        if !files.is_empty() {
            let vault = self.mount(held, Mounter::prepare(held, &files)?)?;
            directory = vault.path();
            delivered.vault = Some(vault);
            variables.push(Variable {
                name: DIR_VARIABLE,
                value: directory.as_bytes(),
            });
        }
        let written = deliver_env::deliver(task, process, &variables)
            .map_err(Failure::from)
            .and_then(|overrode| {
                process.exclude_from_core_dumps().map_err(|cause| {
                    Failure::Identity(Refusal::Unknown {
                        what: "its coredump_filter",
                        cause,
                    })
                })?;
                Ok(overrode)
            });
        match written {
            Ok(overrode) => delivered.overrode = overrode,
            Err(failure) => {
                self.clean(delivered.vault.take());
                return Err(failure);
            }
        }
        Ok(delivered)
    }

    /// Guards the files, then lets them be seen.
    fn mount(&mut self, held: &Held, prepared: Prepared) -> Result<Vault, Failure> {
        let dev = prepared.dev;
        self.maps.add_vault(
            dev,
            VaultOwner {
                seal: held.seal,
                scope: held.scope,
                superblock: 0,
                reserved: 0,
            },
        )?;
        prepared.introduce()?;
        self.mounter.attach(held, prepared).map_err(|e| {
            self.maps.remove_vault(dev);
            e.into()
        })
    }

    /// Says what was done, and remembers what is to be taken away again.
    fn sealed(
        &mut self,
        held: &Held,
        bindings: &[&Binding],
        secrets: &[Secret<'_>],
        delivered: Delivered,
    ) {
        let process = text(&held.name);
        let now = Clock::monotonic_ns();
        let held_ns = now.saturating_sub(held.since_ns);
        let bindings: Vec<&str> = bindings
            .iter()
            .map(|binding| binding.name.as_str())
            .collect();
        let names = |chosen: fn(&Secret<'_>) -> bool| -> Vec<&str> {
            secrets
                .iter()
                .filter(|secret| chosen(secret))
                .map(|secret| secret.name)
                .collect()
        };
        let detail = Detail::Sealed {
            uid: held.uid,
            bindings: &bindings,
            env: &names(|secret| {
                secret.as_env && deliver_env::check(secret.name, &secret.value).is_ok()
            }),
            files: &names(|secret| secret.as_file),
            overrode: &delivered.overrode,
            note: delivered.note.as_deref(),
            held_us: held_ns / 1000,
        };
        self.journal
            .emit(now, Kind::Sealed, held.pid, &process, detail);
        self.metrics.secrets_injected.inc_by(secrets.len() as u64);
        #[expect(clippy::cast_precision_loss, reason = "a duration in a histogram")]
        self.metrics.release.observe(held_ns as f64 / 1e9);
        self.metrics.sealed_processes.inc();
        let tree = Tree {
            pid: held.pid,
            process: process.into_owned(),
            vault: delivered.vault,
        };
        self.trees.insert(held.seal, tree);
    }

    /// A program that no binding is about goes its way, as if we had not been there.
    fn let_go(&mut self, tgid: u32, held: &Held, task: HeldTask) {
        self.maps.unseal(tgid, held.seal);
        let maps = &mut self.maps;
        match task.release(|| maps.forget_held(tgid)) {
            Ok(()) | Err(HoldError::Gone) => {}
            Err(e) => {
                tracing::error!(
                    pid = held.pid,
                    "could not release a program that is not ours: {e}"
                );
            }
        }
    }

    /// The same where somebody else is attached.
    fn let_go_unattached(&mut self, tgid: u32, held: &Held) {
        self.maps.unseal(tgid, held.seal);
        let _ = self.maps.forget_held(tgid);
        let _ = kill(Pid::from_raw(held.pid.cast_signed()), Signal::SIGCONT);
    }

    /// A program that cannot have its secrets: by the policy it does not start, or starts without.
    fn refuse(&mut self, tgid: u32, held: &Held, task: Option<HeldTask>, failure: &Failure) {
        let reason = failure.to_string();
        let is_gone = matches!(failure, Failure::Hold(HoldError::Gone));
        let action = match self.config.policy.on_failure {
            _ if is_gone => Action::Gone,
            OnFailure::Deny => Action::Killed,
            OnFailure::Allow => Action::Started,
        };
        match (action, task) {
            (Action::Gone, _) => drop(self.maps.forget_held(tgid)),
            (Action::Killed, Some(task)) => task.kill(),
            (Action::Killed, None) => {
                watchdog::kill_held(&self.maps, tgid, held);
            }
            (Action::Started, Some(task)) => {
                self.maps.unseal(tgid, held.seal);
                let maps = &mut self.maps;
                if let Err(e) = task.release(|| maps.forget_held(tgid)) {
                    tracing::warn!(pid = held.pid, "could not release it: {e}");
                }
            }
            (Action::Started, None) => self.let_go_unattached(tgid, held),
        }
        if self.given_up.take(held.seal) {
            return; // the watchdog was there first, and has said so
        }
        self.metrics.refused.inc();
        let name = text(&held.name);
        tracing::warn!(pid = held.pid, process = %name, "refused: {reason}");
        let detail = Detail::Refused {
            reason: &reason,
            action,
        };
        self.journal.emit(
            Clock::monotonic_ns(),
            Kind::Refused,
            held.pid,
            &name,
            detail,
        );
    }

    /// A sealed process ended; with the last of its tree, its files go.
    fn end(&mut self, exit: &Exit) {
        let Some(tree) = self.trees.get(&exit.seal) else {
            return; // it was refused
        };
        if exit.flags & EXIT_ROOT != 0 {
            self.metrics.sealed_processes.dec();
            let (code, signal) = match exit.status & 0x7f {
                0 => (Some(exit.status >> 8), None),
                signal => (None, Some(signal)),
            };
            let detail = Detail::Exited { code, signal };
            self.journal.emit(
                exit.header.time_ns,
                Kind::Exited,
                tree.pid,
                &tree.process,
                detail,
            );
        }
        if exit.flags & EXIT_LAST != 0
            && let Some(tree) = self.trees.remove(&exit.seal)
        {
            self.clean(tree.vault);
        }
    }

    /// Takes files away; they are wiped a little later.
    fn clean(&mut self, vault: Option<Vault>) {
        let Some(vault) = vault else {
            return;
        };
        if let Err(e) = self.mounter.remove(&vault) {
            tracing::warn!("secret files could not be taken away: {e}");
        }
        self.unmounted
            .push_back((Instant::now() + WIPE_AFTER, vault));
    }

    /// How long to wait for records before the next wipe is due.
    fn until_next_wipe(&self) -> PollTimeout {
        self.unmounted
            .front()
            .map_or(PollTimeout::NONE, |(due, _)| {
                let left = due.saturating_duration_since(Instant::now());
                // Rounded up, not to come a moment too early, again and again.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            })
    }

    /// Wipes what was unmounted long enough ago. With its last descriptor the tmpfs is gone, and
    /// with the tmpfs its entry in the kernel side.
    fn wipe_due(&mut self) {
        while let Some((due, vault)) = self.unmounted.pop_front() {
            if due > Instant::now() {
                self.unmounted.push_front((due, vault));
                return;
            }
            if let Err(e) = vault.wipe() {
                tracing::warn!("secret files could not be wiped: {e}");
            }
        }
    }

    /// Deals with everything that is held, whether its record arrived or not.
    fn catch_up(&mut self) {
        for (tgid, held) in self.maps.all_held(self.scope) {
            self.live(tgid, &held);
        }
    }

    /// Records may have been lost; what they were about is in the maps.
    fn notice_losses(&mut self) {
        let dropped = self.maps.counters(self.scope).dropped;
        if dropped == self.dropped {
            return;
        }
        let count = dropped.saturating_sub(self.dropped);
        self.dropped = dropped;
        self.metrics
            .events_dropped
            .with_label_values(&["kernel"])
            .inc_by(count);
        let detail = Detail::Dropped {
            count,
            lost_in: "kernel",
        };
        self.journal.emit(
            Clock::monotonic_ns(),
            Kind::Dropped,
            std::process::id(),
            "kernelseal",
            detail,
        );
        self.catch_up();
        self.sweep();
    }

    /// Ends the trees whose end we were not told of.
    fn sweep(&mut self) {
        let living = self.maps.seals(self.scope);
        let gone: Vec<u64> = self
            .trees
            .keys()
            .filter(|seal| !living.contains(seal))
            .copied()
            .collect();
        for seal in gone {
            if let Some(tree) = self.trees.remove(&seal) {
                self.metrics.sealed_processes.dec();
                self.clean(tree.vault);
            }
        }
    }

    fn report_access(&mut self, access: &sidecar_common::event::Access) {
        use sidecar_common::event as e;
        let name = text(&access.name);
        let what = match access.what {
            e::WHAT_FILE => "secret file",
            e::WHAT_PTRACE => "ptrace",
            e::WHAT_PROCESS_VM => "process_vm",
            _ if name.is_empty() => "mem",
            _ => name.as_ref(),
        };
        let (kind, verdict) = match access.verdict {
            e::VERDICT_BLOCKED => (Kind::Blocked, "blocked"),
            e::VERDICT_AUDIT => (Kind::Audit, "audit"),
            _ => (Kind::Audit, "allowed"),
        };
        let counter = if kind == Kind::Blocked {
            &self.metrics.access_blocked
        } else {
            &self.metrics.access_audit
        };
        counter.with_label_values(&[what]).inc();
        let target = text(&access.target.comm);
        let is_file = access.what == e::WHAT_FILE;
        let detail = Detail::Access {
            access: what,
            target_pid: (!is_file).then_some(access.target.pid),
            target: if is_file { &name } else { &target },
            uid: access.actor.uid,
            verdict,
        };
        self.journal.emit(
            access.header.time_ns,
            kind,
            access.actor.pid,
            &text(&access.actor.comm),
            detail,
        );
    }
}

/// The text before the first NUL.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}
