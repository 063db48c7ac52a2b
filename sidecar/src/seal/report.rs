//! What is said of a delivery and of those who reach for it.

use std::sync::Arc;

use sidecar_common::{
    event::{Access, AccessKind, Exec, RefusalReason, Subject, Verdict},
    policy::Held,
};

use super::{Delivered, Secret, Tree, Work, deliver_env, text};
use crate::{
    config::Binding,
    observe::{Action, Detail, Kind, Reason, SECRET_FILE, Who},
    process::Place,
    util::Clock,
};

impl Work {
    /// A program that is held.
    pub(super) fn report_start(&mut self, held: &Held, place: &Place) {
        self.metrics.exec_events.inc();
        let detail = Detail::Exec { uid: held.uid };
        self.emit(held.since_ns, Kind::Exec, held, place, detail);
    }

    /// What a held program is told of with.
    pub(super) fn emit(
        &mut self,
        time_ns: u64,
        kind: Kind,
        held: &Held,
        place: &Place,
        detail: Detail<'_>,
    ) {
        let who = Who {
            pid: held.pid,
            process: &text(&held.name),
            container: place.container.as_ref(),
            pod_uid: place.pod.as_deref(),
        };
        self.journal.emit(time_ns, kind, who, detail);
    }

    /// A process of which the kernel side told.
    fn emit_of(
        &mut self,
        time_ns: u64,
        kind: Kind,
        subject: &Subject,
        name: &str,
        detail: Detail<'_>,
    ) {
        // Only what is known: it is not held, and may be gone.
        let place = self.whereabouts.lock().known(subject.cgroup);
        let who = Who {
            pid: subject.pid,
            process: name,
            container: place.as_ref().and_then(|place| place.container.as_ref()),
            pod_uid: place.as_ref().and_then(|place| place.pod.as_deref()),
        };
        self.journal.emit(time_ns, kind, who, detail);
    }

    /// A program start that the kernel side reported.
    pub(super) fn report_exec(&mut self, exec: &Exec) {
        let uid = exec.subject.uid;
        let (name, detail) = (text(&exec.name), Detail::Exec { uid });
        self.emit_of(
            exec.header.time_ns,
            Kind::Exec,
            &exec.subject,
            &name,
            detail,
        );
    }

    /// A program that the kernel side itself refused.
    pub(super) fn report_refused(&mut self, exec: &Exec) {
        let (label, reason) = why_refused(exec.reason);
        self.metrics.count_refused(label);
        let name = text(&exec.name);
        let action = if exec.reason == RefusalReason::NoFork as u32 {
            Action::GoesOn
        } else {
            Action::Killed
        };
        let time_ns = exec.header.time_ns;
        let origin = self.origins.of(exec.subject.pid, time_ns);
        let detail = Detail::Refused {
            binding: &joined(self.config.clone().named(name.as_bytes())),
            origin: (&origin).into(),
            reason,
            action,
        };
        self.emit_of(time_ns, Kind::Refused, &exec.subject, &name, detail);
    }

    /// Says what was done, and remembers what is to be taken away again.
    pub(super) fn sealed(
        &mut self,
        held: &Held,
        place: Arc<Place>,
        bindings: &[&Binding],
        secrets: &[Secret<'_>],
        delivered: Delivered,
    ) {
        self.turns.end(held.seal);
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
        self.emit(now, Kind::Sealed, held, &place, detail);
        self.metrics.count_matches(bindings.iter().copied());
        self.metrics.secrets_injected.inc_by(secrets.len() as u64);
        #[expect(clippy::cast_precision_loss, reason = "a duration in a histogram")]
        self.metrics.release.observe(held_ns as f64 / 1e9);
        let tree = Tree {
            process: Some(process.into_owned()),
            has_root: true,
            place,
            memory: Some(delivered.memory),
            vaults: delivered.vault.into_iter().collect(),
        };
        // (an adoption that overlooked that it was held has counted it)
        if self.trees.insert(held.seal, tree).is_none() {
            self.metrics.sealed_processes.inc();
        }
    }

    pub(super) fn report_access(&mut self, access: &Access) {
        let name = text(&access.name);
        let kind = AccessKind::try_from(access.what);
        let is_file = kind == Ok(AccessKind::SecretFile);
        let what = match kind {
            Ok(AccessKind::SecretFile) => SECRET_FILE,
            Ok(AccessKind::Ptrace) => "ptrace",
            Ok(AccessKind::ProcessVm) => "process_vm",
            _ if name.is_empty() => "mem",
            _ => &without_spaces(&name),
        };
        let (kind, verdict) = match Verdict::try_from(access.verdict) {
            Ok(Verdict::Blocked) => (Kind::Blocked, "blocked"),
            Ok(Verdict::Audit) => (Kind::Audit, "audit"),
            Ok(Verdict::Allowed) | Err(_) => (Kind::Audit, "allowed"),
        };
        if kind == Kind::Blocked {
            self.metrics.count_blocked(what);
        } else {
            self.metrics.count_audited(what);
        }
        let target = text(&access.target.comm);
        let tree = self.trees.get(&access.seal);
        let binding = tree.and_then(|tree| Some(tree.memory.as_ref()?.bindings()));
        let time_ns = access.header.time_ns;
        let origin = self.origins.of(access.actor.pid, time_ns);
        let detail = Detail::Access {
            access: what,
            target_pid: (!is_file).then_some(access.target.pid),
            target: if is_file { &name } else { &target },
            binding: &binding.unwrap_or_default(),
            origin: (&origin).into(),
            uid: access.actor.uid,
            verdict,
        };
        let name = text(&access.actor.comm);
        self.emit_of(time_ns, kind, &access.actor, &name, detail);
    }
}

/// Names of bindings, as an event tells them.
pub(super) fn joined<'b>(bindings: impl IntoIterator<Item = &'b Binding>) -> String {
    let names: Vec<&str> = bindings
        .into_iter()
        .map(|binding| binding.name.as_str())
        .collect();
    names.join(",")
}

/// Why the kernel side refuses a program.
fn why_refused(reason: u32) -> (Reason, &'static str) {
    let Ok(reason) = RefusalReason::try_from(reason) else {
        return (Reason::Kernel, "the kernel side refused it");
    };
    match reason {
        RefusalReason::SealedFull => (
            Reason::MapFull,
            "the kernel side's map of sealed processes is full",
        ),
        RefusalReason::HeldFull => (
            Reason::MapFull,
            "the kernel side's map of held programs is full",
        ),
        RefusalReason::ForkUnsealed => (
            Reason::MapFull,
            "it forked, and the child could not be sealed",
        ),
        RefusalReason::NoFork => (
            Reason::MapFull,
            "it may not fork: the kernel side's map of sealed processes is nearly full",
        ),
        RefusalReason::OtherFile => (
            Reason::OtherFile,
            "the kernel executes another file than the one asked for",
        ),
        RefusalReason::NoAgent => (Reason::NoAgent, "its agent ended while it was started"),
        RefusalReason::NoteLost => (
            Reason::Kernel,
            "its note was lost: thousands of other execs of watched programs failed while it started",
        ),
        RefusalReason::HookSilent => (
            Reason::Guard,
            "the hook that would have held it did not run: security programs are switched off",
        ),
    }
}

/// A file's name as an `access`: somebody else may have chosen it.
fn without_spaces(name: &str) -> String {
    name.replace(|c: char| c.is_whitespace() || c.is_control(), "_")
}
