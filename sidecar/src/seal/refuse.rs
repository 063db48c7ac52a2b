//! Programs that get no secrets: those no binding is about, and those that cannot have theirs.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sidecar_common::policy::{Held, HeldFlags};

use super::{
    Work,
    deliver_env::EnvError,
    failure::Failure,
    held::{HeldTask, HoldError, MergingError},
    report::joined,
    text,
    verify::Verdict,
    watchdog,
};
use crate::{
    config::{Binding, OnFailure},
    observe::{Action, Detail, Kind},
    process::{Origin, Place, Process},
    util::Clock,
};

impl Work {
    /// A traced program cannot be attached to; it gets nothing, and if it is one of ours it does
    /// not start.
    pub(super) fn judge_traced(&mut self, tgid: u32, held: &Held, process: Process, place: &Place) {
        let config = self.config.clone();
        // (nobody is attached, so that nobody waits for a digest)
        match self.verify(&config, held, process, place, None) {
            Verdict::Refused(refusal) => self.refuse(tgid, held, place, None, &refusal.into()),
            Verdict::Is(_) | Verdict::IsNot | Verdict::NotYet(_) => {
                self.let_go_unattached(tgid, held);
            }
        }
    }

    /// A program that no binding is about goes its way, as if we had not been there.
    pub(super) fn let_go(&mut self, tgid: u32, held: &Held, task: HeldTask) {
        self.turns.end(held.seal);
        self.maps.unseal(tgid, held);
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
    pub(super) fn let_go_unattached(&mut self, tgid: u32, held: &Held) {
        self.turns.end(held.seal);
        if held.flags.contains(HeldFlags::PRE_EXEC) {
            self.maps.unseal(tgid, held);
            let _ = self.maps.waive(tgid, held);
            return;
        }
        // By its number, for it is to be let go without descriptors, too: until here it was its own.
        if self.maps.forget_if(tgid, held) {
            self.maps.unseal(tgid, held);
            let _ = kill(Pid::from_raw(held.pid.cast_signed()), Signal::SIGCONT);
        }
    }

    /// A program that cannot have its secrets: by the policy it does not start, or starts without. One that a sealed program
    /// executes, and that is not what a binding means, is that program's matter: a wrapper executes what has its own name,
    /// a launcher sets `LD_LIBRARY_PATH` and executes itself. It keeps the seal it has, for what came with that may be in
    /// its environment.
    pub(super) fn refuse(
        &mut self,
        tgid: u32,
        held: &Held,
        place: &Place,
        task: Option<HeldTask>,
        failure: &Failure,
    ) {
        let config = self.config.clone();
        let name = text(&held.name);
        let meant: Vec<&Binding> = config.named(name.as_bytes()).collect();
        self.refuse_by(tgid, held, place, task, failure, &meant);
    }

    /// The same of one that these bindings mean.
    pub(super) fn refuse_matched(
        &mut self,
        tgid: u32,
        held: &Held,
        place: &Place,
        task: Option<HeldTask>,
        failure: &Failure,
        bindings: &[&Binding],
    ) {
        let names = bindings.iter().map(|binding| binding.name.as_str());
        self.metrics.count_matches(names);
        self.refuse_by(tgid, held, place, task, failure, bindings);
    }

    fn refuse_by(
        &mut self,
        tgid: u32,
        held: &Held,
        place: &Place,
        task: Option<HeldTask>,
        failure: &Failure,
        bindings: &[&Binding],
    ) {
        self.turns.end(held.seal);
        // (as long as it is there)
        let origin = origin_of(held);
        let reason = failure.to_string();
        let action = match (failure, self.config.policy.on_failure) {
            (
                Failure::Hold(HoldError::Gone)
                | Failure::Late(HoldError::Gone)
                | Failure::Merging(MergingError::Amid(HoldError::Gone)),
                _,
            ) => Action::Gone,
            (Failure::Identity(_), _) if held.earlier_seal != 0 => Action::KeptSeal,
            // What was written of them is in its memory: it is not let out of the seal. (Or it stands elsewhere than at its
            // first instruction.)
            (
                Failure::Late(_)
                | Failure::Env(EnvError::Write(_))
                | Failure::Merging(MergingError::Amid(_)),
                _,
            )
            | (_, OnFailure::Deny) => Action::Killed,
            (_, OnFailure::Allow) => Action::Started,
        };
        match (action, task) {
            (Action::Gone | Action::GoesOn, _) => {
                if self.maps.forget_if(tgid, held) {
                    // (another thread of it may have executed what nobody watches)
                    self.maps.unseal(tgid, held);
                }
            }
            (Action::Killed, Some(task)) => task.kill(),
            (Action::Killed, None) => {
                watchdog::kill_held(&self.maps, tgid, held);
            }
            (Action::Started | Action::KeptSeal, Some(task)) => {
                self.maps.unseal(tgid, held);
                let maps = &mut self.maps;
                if let Err(e) = task.release(|| maps.forget_held(tgid)) {
                    tracing::warn!(pid = held.pid, "could not release it: {e}");
                }
            }
            (Action::Started | Action::KeptSeal, None) => self.let_go_unattached(tgid, held),
        }
        if self.given_up.take(held.seal) {
            return; // the watchdog was there first, and has said so
        }
        self.metrics.count_refused(failure.reason());
        let name = text(&held.name);
        tracing::warn!(pid = held.pid, process = %name, "refused: {reason}");
        let detail = Detail::Refused {
            binding: &joined(bindings.iter().copied()),
            origin: (&origin).into(),
            reason: &reason,
            action,
        };
        self.emit(Clock::monotonic_ns(), Kind::Refused, held, place, detail);
    }
}

/// The file of a held program, and who started it. Of one that is coming to its exec the file is still the one before.
pub(super) fn origin_of(held: &Held) -> Origin {
    let origin = Origin::of(held.pid, held.since_ns);
    if held.flags.contains(HeldFlags::PRE_EXEC) {
        return origin.without_executable();
    }
    origin
}
