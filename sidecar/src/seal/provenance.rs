//! Where a held program comes from: out of its container's image, or from whoever had the container since; on a machine of its
//! own, from root alone, or from anybody.
//!
//! What was asked for must come from there, and what runs it; and the symbolic links by which it has the name that a binding
//! means.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use sidecar_common::{policy::HeldFlags, provenance::FileOrigin};

use super::{
    stack::Stack,
    verify::{Evidence, Refusal},
};
use crate::{
    config::{Binding, Provenance},
    process::{Entry, Process, Root, Script},
};

/// Asks the kernel side about a file, of a process with that root.
pub(super) type Ask = dyn Fn(BorrowedFd<'_>, &Root) -> io::Result<FileOrigin>;

/// What a binding wants of a program.
pub(super) fn wanted(binding: &Binding, evidence: &Evidence<'_>) -> Provenance {
    // (what lives where nobody can tell may live in a container)
    let is_in_container = evidence.place.container.is_some() || !evidence.place.is_known();
    binding.selector.provenance_in(is_in_container)
}

/// Whether a program comes from where its binding wants it to.
pub(super) fn check(
    wanted: Provenance,
    script: Option<Script<'_>>,
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<(), Refusal> {
    let judge = match wanted {
        Provenance::Any => return Ok(()),
        Provenance::System => Judge::System,
        Provenance::Image | Provenance::ImageAndLibraries => Judge::Image,
    };
    let refused = |what: String, why: String| Refusal::Provenance {
        what,
        why,
        wanted: judge.word(),
        binding: binding.name.clone(),
    };
    let process = evidence.process;
    // Of what runs the kernel side has noted it, at the exec.
    let noted = evidence.held.provenance();
    if !judge.is_met_by(noted) {
        let why = match judge {
            Judge::System => {
                let entry = process.executed_entry().map_err(unknown)?;
                why_not_roots(noted, &entry).map_err(unknown)?
            }
            Judge::Image => why_not_of_image(noted).into(),
        };
        return Err(refused(evidence.executed(), why));
    }
    if script.is_none() && evidence.held.flags.contains(HeldFlags::OWN_NAME) {
        return Ok(()); // as nearly all
    }
    // It has its name by links, or by a first line.
    let named = Some(Path::new(&binding.selector.binary)).filter(|path| path.is_absolute());
    let asked_for = evidence.stack.and_then(Stack::execfn_path);
    let asked_for = asked_for.map(|path| Path::new(OsStr::from_bytes(path)));
    let path = named.or(asked_for);
    let path = path.ok_or_else(|| unknown(io::Error::other("its path cannot be read")))?;
    let root = process.root_mount().map_err(unknown)?;
    let why_not = |entry: &Entry| judge.why_not(entry, &root, evidence.ask);
    let links = process.follow(path, |link| match why_not(link) {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(refused(
            format!("the symbolic link {}", link.path.display()),
            why,
        )),
        Err(e) => Err(unknown(e)),
    });
    let entry = links.map_err(unknown)??;
    let is_it = match script {
        Some(script) => script.is(&entry),
        None => entry
            .id()
            .and_then(|found| Ok(found == process.executable_file()?)),
    };
    if !is_it.map_err(unknown)? {
        return Err(unknown(io::Error::other(
            "its path leads to another file by now",
        )));
    }
    if script.is_some()
        && let Some(why) = why_not(&entry).map_err(unknown)?
    {
        return Err(refused(entry.path.display().to_string(), why));
    }
    Ok(())
}

/// Whether all code that a program has in its memory is from its image. From before that on the kernel side must see to it that
/// no other comes.
pub(super) fn check_code(process: Process, ask: &Ask, binding: &Binding) -> Result<(), Refusal> {
    let unknown = |cause| Refusal::Unknown {
        what: "what it has mapped could not be looked at",
        cause,
    };
    let root = process.root_mount().map_err(unknown)?;
    for file in process.mapped_code().map_err(unknown)? {
        let answer = ask(file.as_fd(), &root).map_err(unknown)?;
        if !answer.is_of_image() {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            return Err(Refusal::Provenance {
                what: path.map_err(unknown)?.display().to_string(),
                why: why_not_of_image(answer).into(),
                wanted: Judge::Image.word(),
                binding: binding.name.clone(),
            });
        }
    }
    Ok(())
}

/// What a file must be. The kernel side answers; why it is not that, is looked up when that is so.
#[derive(Clone, Copy)]
enum Judge {
    System,
    Image,
}

impl Judge {
    fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Image => "image",
        }
    }

    fn is_met_by(self, answer: FileOrigin) -> bool {
        match self {
            Self::System => answer.contains(FileOrigin::ROOTS_ALONE),
            Self::Image => answer.is_of_image(),
        }
    }

    /// Why something does not come from there, in a process with that root; `None` where it does.
    fn why_not(self, entry: &Entry, root: &Root, ask: &Ask) -> io::Result<Option<String>> {
        let answer = ask(entry.as_fd(), root)?;
        if self.is_met_by(answer) {
            return Ok(None);
        }
        match self {
            Self::System => why_not_roots(answer, entry).map(Some),
            Self::Image => Ok(Some(why_not_of_image(answer).into())),
        }
    }
}

/// Why a file is not root's alone.
fn why_not_roots(answer: FileOrigin, entry: &Entry) -> io::Result<String> {
    if answer.contains(FileOrigin::FOREIGN) {
        return Ok("it lies on a file system that somebody mounted in a pod, or in a user namespace of his own".into());
    }
    let found = entry.why_open_to_others()?;
    Ok(found.unwrap_or_else(|| {
        "it lies below more than 30 folders, below mounts that map users differently, or on a detached mount; or it was changed just now".into()
    }))
}

/// Why a file is not of the image.
fn why_not_of_image(answer: FileOrigin) -> &'static str {
    if !answer.contains(FileOrigin::IN_ROOT) {
        "it lies on another mount than its container's root (a volume, a tmpfs, another container)"
    } else if answer.contains(FileOrigin::FOREIGN) {
        "it lies on a file system that somebody mounted in the pod, not the container's runtime"
    } else if !answer.intersects(FileOrigin::READ_ONLY | FileOrigin::IN_LAYERS) {
        "it lies on a file system that does not tell the image from later changes (neither an overlay nor one that is never written)"
    } else {
        debug_assert!(answer.contains(FileOrigin::CHANGED));
        "it was made or changed after its container was"
    }
}

fn unknown(cause: io::Error) -> Refusal {
    Refusal::Unknown {
        what: "where the file it executes comes from could not be looked at",
        cause,
    }
}
