//! Identity: is a held program really one that a binding means?
//!
//! The name was only a filter. A program that the binding's selector does not describe (another
//! user, another cgroup) is none of our business and starts untouched; one that pretends (the
//! right name on the wrong file) or that somebody has a hand in is refused.

use std::{cell::RefCell, io, os::fd::BorrowedFd};

use sidecar_common::policy::{Held, HeldFlags};

use super::{digests::Digests, executable::is_bound_executable, provenance::Ask, stack::Stack};
use crate::{
    config::{Binding, Selector},
    limits,
    process::{LABELS, Place, Pod, Pods, Process},
};

/// What was found out about a held program.
pub(crate) enum Verdict<'c> {
    /// It is this program, by these bindings: all of their secrets are its own.
    Is(Vec<&'c Binding>),
    /// No binding is about it.
    IsNot,
    /// It may be one, but not enough is known of its pod yet.
    NotYet(Refusal),
    /// It must not have secrets.
    Refused(Refusal),
}

/// Why a program gets no secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Somebody traces it.
    #[error("process {0} ({1}) traces it")]
    Traced(u32, String),
    /// The file is not the one the binding names.
    #[error("executable {executed} does not match {wanted} (binding {binding:?})")]
    OtherFile {
        /// What runs.
        executed: String,
        /// What should.
        wanted: String,
        /// Whose.
        binding: String,
    },
    /// The file's content is not the one the binding names.
    #[error("the SHA-256 of {executed} is {found}, which does not match binding {binding:?}")]
    OtherContent {
        /// What runs.
        executed: String,
        /// Its digest.
        found: String,
        /// Whose.
        binding: String,
    },
    /// What runs may be another content in a moment.
    #[error(
        "{executed} can be written while it runs, so its SHA-256, which binding {binding} wants, proves nothing. Either a fanotify listener asked to be told before the file is read (since Linux 6.14), or this is Linux 6.11. End the listener, or update the kernel"
    )]
    Writable {
        /// What runs.
        executed: String,
        /// Whose.
        binding: String,
    },
    /// What was executed as a script is none, or was given to another interpreter.
    #[error(
        "{executed} runs this script, which is not the interpreter that the script's first line names, or was not given it as that line says. An entry of binfmt_misc can cause that"
    )]
    OtherInterpreter {
        /// What runs.
        executed: String,
    },
    /// It, or what gives it its name, comes from elsewhere.
    #[error(
        "{what}: {why}. Binding {binding} is for {} (selector.provenance: {wanted}). Start the program that is, or give the binding an absolute path and sha256, or `provenance: any`", if *wanted == "image" { "what is in the image" } else { "programs that root alone can change" }
    )]
    Provenance {
        /// The file, or the link.
        what: String,
        /// What is wrong with it.
        why: String,
        /// What the binding wants.
        wanted: &'static str,
        /// Whose.
        binding: String,
    },
    /// Its control group tells nothing.
    #[error(
        "its container is not known: /proc/<pid>/cgroup could not be read, or names two containers"
    )]
    NoPlace,
    /// No mount of the kubelet's tells its container's name.
    #[error(
        "the name of its container, {0}, is not known: no file that the kubelet mounts there tells it. Select by the container's whole id, or leave selector.container out"
    )]
    NoContainerName(String),
    /// The agent was not told.
    #[error(
        "its pod's namespace is not known: set POD_NAMESPACE for the agent (fieldRef metadata.namespace)"
    )]
    NoPod,
    /// The API has not told of it.
    #[error("the pod of its container, {0}, is not known{why}", why = .1.as_ref().map_or_else(|| ": the API has not told of it".to_owned(), |why| format!(": {why}")))]
    UnknownPod(String, Option<String>),
    /// Which of them the selector means cannot be told.
    #[error(
        "its pod, {0}, has more labels than an agent keeps (16 KiB): select it by its namespace"
    )]
    TooManyLabels(String),
    /// Its digest is being counted, or waits for its turn.
    #[error(
        "the SHA-256 of the file it executes was not counted within three quarters of policy.holdTimeout"
    )]
    NotCounted,
    /// Foreign code would come along.
    #[error(
        "{0} is set: it brings other code into the program. Start it without that variable, or name it in the binding's allowVariables"
    )]
    Preload(&'static str),
    /// The same, by an interpreter or a library.
    #[error(
        "{0} is set: it brings other code into interpreters or libraries. It is allowed only where the program's container was started with the same value. Start the program without that variable, or name it in the binding's allowVariables"
    )]
    Interpreter(&'static str),
    /// It could not be looked at.
    #[error("{what}: {cause}")]
    Unknown {
        /// What we looked at.
        what: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

impl Refusal {
    /// Whether more may be known in a moment.
    fn may_pass(&self) -> bool {
        matches!(self, Self::UnknownPod(..)) || self.is_for_lack()
    }

    /// Whether it is for want of descriptors or memory: nothing was found out about the program.
    pub(super) fn is_for_lack(&self) -> bool {
        matches!(self, Self::Unknown { cause, .. } if limits::is_for_lack(cause))
    }
}

/// What there is to judge a held program by.
pub(crate) struct Evidence<'a> {
    /// What the kernel side noted.
    pub(crate) held: &'a Held,
    /// The process.
    pub(crate) process: Process,
    /// Where it lives.
    pub(crate) place: &'a Place,
    /// The node's pods, for an agent that answers for one.
    pub(crate) pods: Option<&'a Pods>,
    /// Whether there is time to learn more.
    pub(crate) may_wait: bool,
    /// What the kernel put on its stack: the path that was executed, and its arguments. Of one that we are not attached
    /// to it is not known.
    pub(crate) stack: Option<&'a Stack<'a>>,
    /// Whether an open file is the script that the kernel was asked for: the same inode, where its numbers are not what
    /// `stat` tells.
    pub(crate) is_executed: &'a dyn Fn(BorrowedFd<'_>) -> io::Result<bool>,
    /// Asks the kernel side where a file comes from.
    pub(super) ask: &'a Ask,
    /// Whether there is time to read its file.
    pub(crate) may_count: bool,
    /// What is counted of files.
    pub(super) digests: &'a RefCell<Digests>,
}

impl Evidence<'_> {
    /// What runs, for a message.
    pub(super) fn executed(&self) -> String {
        self.process
            .executable()
            .map_or_else(|_| "another file".into(), |path| path.display().to_string())
    }
}

/// Decides by what the kernel executed.
pub(crate) fn verify<'c>(
    evidence: &Evidence<'_>,
    bindings: impl Iterator<Item = &'c Binding>,
) -> Verdict<'c> {
    let Evidence {
        held,
        process,
        may_wait,
        ..
    } = *evidence;
    let name = held.name.get(..held.name_len as usize).unwrap_or_default();
    let mut meant = Vec::new();
    let mut refusal = None;
    for binding in bindings.filter(|b| b.selector.basename().as_bytes() == name) {
        match describes(&binding.selector, evidence) {
            Ok(true) => {}
            Ok(false) => continue,
            // Whatever the others say: what it gets must not be a matter of a moment.
            Err(unknown) if may_wait && unknown.may_pass() => return Verdict::NotYet(unknown),
            Err(refused) => {
                refusal = Some(refused);
                continue;
            }
        }
        match is_bound_executable(binding, evidence) {
            Ok(()) => meant.push(binding),
            Err(unknown) if may_wait && unknown.may_pass() => return Verdict::NotYet(unknown),
            Err(unknown @ Refusal::NotCounted) if evidence.may_count => {
                return Verdict::NotYet(unknown);
            }
            Err(refused) => refusal = Some(refused),
        }
    }
    match (meant.is_empty(), refusal) {
        (true, None) => Verdict::IsNot,
        (true, Some(refusal)) => Verdict::Refused(refusal),
        (false, _) if held.flags.contains(HeldFlags::TRACED) => {
            let (pid, name) = process.tracer().unwrap_or_default();
            Verdict::Refused(Refusal::Traced(pid, name))
        }
        (false, _) => Verdict::Is(meant),
    }
}

/// Whether the selector is about this process at all.
pub(super) fn describes(selector: &Selector, evidence: &Evidence<'_>) -> Result<bool, Refusal> {
    let Evidence { held, place, .. } = *evidence;
    if selector.uid.is_some_and(|uid| uid != held.uid) {
        return Ok(false);
    }
    let is_for_places = selector.cgroup_path.is_some()
        || selector.container.is_some()
        || selector.namespace.is_some()
        || !selector.labels.is_empty();
    if !is_for_places {
        return Ok(true);
    }
    if !place.is_known() {
        return Err(match &place.trouble {
            Some(cause) => Refusal::Unknown {
                what: "where it lives could not be looked at",
                cause: limits::same(cause),
            },
            None => Refusal::NoPlace,
        });
    }
    if let Some(wanted) = &selector.cgroup_path
        && !place.cgroup.starts_with(wanted)
    {
        return Ok(false);
    }
    let Some(container) = &place.container else {
        return Ok(selector.container.is_none()
            && selector.namespace.is_none()
            && selector.labels.is_empty());
    };
    if let Some(wanted) = &selector.container {
        let is_called = container.is_called(wanted);
        if !is_called.ok_or_else(|| Refusal::NoContainerName(container.id.clone()))? {
            return Ok(false);
        }
    }
    if let Some(pods) = evidence.pods {
        return is_in_pod(selector, place, pods);
    }
    if let Some(wanted) = &selector.namespace {
        let namespace = container.pod_namespace.as_ref();
        if namespace.ok_or(Refusal::NoPod)? != wanted {
            return Ok(false);
        }
    }
    if selector.labels.is_empty() {
        return Ok(true);
    }
    let labels = Pod::labels().map_err(|cause| Refusal::Unknown {
        what: LABELS,
        cause,
    })?;
    let mut wanted = selector.labels.iter();
    Ok(wanted.all(|(key, value)| labels.get(key) == Some(value)))
}

/// Whether its pod is one that the selector means, for an agent that answers for a node. A container of no pod is in none.
fn is_in_pod(selector: &Selector, place: &Place, pods: &Pods) -> Result<bool, Refusal> {
    if selector.namespace.is_none() && selector.labels.is_empty() {
        return Ok(true);
    }
    let Some(uid) = &place.pod else {
        return Ok(false);
    };
    let pod = pods
        .find(uid)
        .ok_or_else(|| Refusal::UnknownPod(uid.clone(), pods.trouble()))?;
    let is_there = selector
        .namespace
        .as_ref()
        .is_none_or(|wanted| *wanted == pod.namespace);
    if is_there && !selector.labels.is_empty() && pod.has_too_many_labels {
        return Err(Refusal::TooManyLabels(pod.name.clone()));
    }
    let mut labels = selector.labels.iter();
    Ok(is_there && labels.all(|(key, value)| pod.labels.get(key) == Some(value)))
}

#[cfg(test)]
mod tests;
