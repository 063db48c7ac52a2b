//! Identity: is a held program really one that a binding means?
//!
//! The name was only a filter. A program that the binding's selector does not describe (another
//! user, another cgroup) is none of our business and starts untouched; one that pretends (the
//! right name on the wrong file) or that somebody has a hand in is refused.

use std::{io, path::Path};

use sidecar_common::policy::{HELD_SCRIPT, HELD_TRACED, Held};

use crate::{
    config::{Binding, Selector},
    process::{Content, FileId, LABELS, Place, Pod, Process},
};

/// What was found out about a held program.
pub(crate) enum Verdict<'c> {
    /// It is this program, by these bindings: all of their secrets are its own.
    Is(Vec<&'c Binding>),
    /// No binding is about it.
    IsNot,
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
    #[error("it executes {executed}, which is not the {wanted} of binding {binding}")]
    OtherFile {
        /// What runs.
        executed: String,
        /// What should.
        wanted: String,
        /// Whose.
        binding: String,
    },
    /// The file's content is not the one the binding names.
    #[error("the SHA-256 of {executed} is {found}, binding {binding} wants another")]
    OtherContent {
        /// What runs.
        executed: String,
        /// Its digest.
        found: String,
        /// Whose.
        binding: String,
    },
    /// The script that was looked at is not what the kernel gave to the interpreter.
    #[error("{executed} runs it, which is not the interpreter that its first line names")]
    OtherInterpreter {
        /// What runs.
        executed: String,
    },
    /// Its control group tells nothing.
    #[error(
        "where it lives is not known: /proc/<pid>/cgroup could not be read, or names two containers"
    )]
    NoPlace,
    /// No mount of the kubelet's tells its container's name.
    #[error(
        "the name of its container, {0}, is not known: no file that the kubelet mounts there tells it. Select by the container's id, or leave selector.container out"
    )]
    NoContainerName(String),
    /// The agent was not told.
    #[error(
        "its pod's namespace is not known: set POD_NAMESPACE for the agent (fieldRef metadata.namespace)"
    )]
    NoPod,
    /// It ended, or its time was up.
    #[error("it was given up while its file was looked at")]
    NoLongerHeld,
    /// Foreign code would come along.
    #[error("{0} is set: it brings other code into the program. Start it without that variable")]
    Preload(&'static str),
    /// It could not be looked at.
    #[error("{what}: {cause}")]
    Unknown {
        /// What we looked at.
        what: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

/// What there is to judge a held program by.
pub(crate) struct Evidence<'a> {
    /// What the kernel side noted.
    pub(crate) held: &'a Held,
    /// The process.
    pub(crate) process: Process,
    /// Where it lives.
    pub(crate) place: &'a Place,
    /// The path that was executed, as the program was given it.
    pub(crate) path: Option<&'a Path>,
    /// Whether it is still held: a long look at a program that is gone is in vain.
    pub(crate) is_held: &'a dyn Fn() -> bool,
}

/// Decides by what the kernel executed.
pub(crate) fn verify<'c>(
    evidence: &Evidence<'_>,
    bindings: impl Iterator<Item = &'c Binding>,
) -> Verdict<'c> {
    let Evidence {
        held,
        process,
        place,
        ..
    } = *evidence;
    let name = held.name.get(..held.name_len as usize).unwrap_or_default();
    let mut meant = Vec::new();
    let mut refusal = None;
    for binding in bindings.filter(|b| b.selector.basename().as_bytes() == name) {
        match describes(&binding.selector, held, place) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(refused) => {
                refusal = Some(refused);
                continue;
            }
        }
        match is_genuine(binding, evidence) {
            Ok(()) => meant.push(binding),
            Err(refused) => refusal = Some(refused),
        }
    }
    match (meant.is_empty(), refusal) {
        (true, None) => Verdict::IsNot,
        (true, Some(refusal)) => Verdict::Refused(refusal),
        (false, _) if held.flags & HELD_TRACED != 0 => {
            let (pid, name) = process.tracer().unwrap_or_default();
            Verdict::Refused(Refusal::Traced(pid, name))
        }
        (false, _) => Verdict::Is(meant),
    }
}

/// Whether the selector is about this process at all.
fn describes(selector: &Selector, held: &Held, place: &Place) -> Result<bool, Refusal> {
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
        return Err(Refusal::NoPlace);
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

/// Whether the file is the one the binding means.
fn is_genuine(binding: &Binding, evidence: &Evidence<'_>) -> Result<(), Refusal> {
    let Evidence {
        held,
        process,
        path,
        is_held,
        ..
    } = *evidence;
    let script = (held.flags & HELD_SCRIPT != 0).then_some(FileId {
        dev: held.file_dev,
        ino: held.file_ino,
    });
    let unknown = |what| move |cause| Refusal::Unknown { what, cause };
    let selector = &binding.selector;
    let executed = || {
        process
            .executable()
            .map_or_else(|_| "another file".into(), |path| path.display().to_string())
    };
    if selector.binary.starts_with('/') {
        let asked_for = match script {
            Some(script) => script,
            None => process
                .executable_file()
                .map_err(unknown("the file it executes"))?,
        };
        let named = process.file_at(Path::new(&selector.binary)).ok();
        if named != Some(asked_for) {
            return Err(Refusal::OtherFile {
                executed: executed(),
                wanted: selector.binary.clone(),
                binding: binding.name.clone(),
            });
        }
    }
    if let Some(wanted) = &selector.sha256 {
        let found = match script {
            Some(script) => {
                let path = path.ok_or_else(|| {
                    unknown("the path of the script")(io::Error::other("it cannot be read"))
                })?;
                process.script(path, script, is_held)
            }
            None => process.executable_content(is_held),
        };
        let Content {
            sha256: found,
            interpreter,
        } = found
            .map_err(unknown("the file it executes"))?
            .ok_or(Refusal::NoLongerHeld)?;
        // The right bytes may have come there after the exec of others: what was executed as a
        // script must be one, and run by the interpreter that it names.
        if script.is_some() {
            let named = interpreter.and_then(|path| process.file_at(&path).ok());
            let running = process
                .executable_file()
                .map_err(unknown("the file it executes"))?;
            if named != Some(running) {
                return Err(Refusal::OtherInterpreter {
                    executed: executed(),
                });
            }
        }
        if !found.eq_ignore_ascii_case(wanted) {
            return Err(Refusal::OtherContent {
                executed: executed(),
                found,
                binding: binding.name.clone(),
            });
        }
    }
    Ok(())
}
