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

use sidecar_common::{
    policy::HELD_OWN_NAME,
    provenance::{CHANGED, FOREIGN, IN_LAYERS, IN_ROOT, READ_ONLY, ROOTS_ALONE, is_of_image},
};

use super::{
    stack::Stack,
    verify::{Evidence, Refusal},
};
use crate::{
    config::{Binding, Provenance},
    process::{Entry, Process, Root, Script},
};

/// Asks the kernel side about a file, of a process with that root.
pub(super) type Ask = dyn Fn(BorrowedFd<'_>, &Root) -> io::Result<u32>;

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
    let held = evidence.held;
    let has_own_name = script.is_none() && held.flags & HELD_OWN_NAME != 0;
    let is_as_wanted = match wanted {
        Provenance::Any => return Ok(()),
        Provenance::System => held.provenance() & ROOTS_ALONE != 0,
        Provenance::Image | Provenance::ImageAndLibraries => is_of_image(held.provenance()),
    };
    if is_as_wanted && has_own_name {
        return Ok(()); // as nearly all
    }
    let judge = match wanted {
        Provenance::Any | Provenance::System => {
            Judge::System(evidence.process.root_mount().map_err(unknown)?)
        }
        Provenance::Image | Provenance::ImageAndLibraries => {
            Judge::Image(evidence.process.root_mount().map_err(unknown)?)
        }
    };
    let refused = |what: String, why: String| Refusal::Provenance {
        what,
        why,
        wanted: judge.word(),
        binding: binding.name.clone(),
    };
    let process = evidence.process;
    if !is_as_wanted {
        // (the kernel side does not say why, and may not have looked so far)
        let executed = match &judge {
            Judge::System(_) => {
                judge.of_entry(&process.executed_entry().map_err(unknown)?, evidence)
            }
            Judge::Image(root) => of_image(
                process.executed().map_err(unknown)?.as_fd(),
                root,
                evidence.ask,
            ),
        };
        if let Some(why) = executed.map_err(unknown)? {
            return Err(refused(evidence.executed(), why));
        }
    }
    if has_own_name {
        return Ok(());
    }
    // It has its name by links, or by a first line.
    let named = Some(Path::new(&binding.selector.binary)).filter(|path| path.is_absolute());
    let asked_for = evidence.stack.and_then(Stack::execfn_path);
    let asked_for = asked_for.map(|path| Path::new(OsStr::from_bytes(path)));
    let path = named.or(asked_for);
    let path = path.ok_or_else(|| unknown(io::Error::other("its path cannot be read")))?;
    let links = process.follow(path, |link| match judge.of_entry(link, evidence) {
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
        && let Some(why) = judge.of_entry(&entry, evidence).map_err(unknown)?
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
        if let Some(why) = of_image(file.as_fd(), &root, ask).map_err(unknown)? {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            return Err(Refusal::Provenance {
                what: path.map_err(unknown)?.display().to_string(),
                why,
                wanted: Judge::IMAGE,
                binding: binding.name.clone(),
            });
        }
    }
    Ok(())
}

enum Judge {
    System(Root),
    Image(Root),
}

impl Judge {
    const IMAGE: &str = "image";

    fn word(&self) -> &'static str {
        match self {
            Self::System(_) => "system",
            Self::Image(_) => Self::IMAGE,
        }
    }

    /// Why it does not come from there.
    fn of_entry(&self, entry: &Entry, evidence: &Evidence<'_>) -> io::Result<Option<String>> {
        match self {
            // (such a one says what its owner likes, of owners and modes, too)
            Self::System(root) if (evidence.ask)(entry.as_fd(), root)? & FOREIGN != 0 => Ok(Some(
                "it lies on a file system that somebody mounted in a user namespace of his own"
                    .into(),
            )),
            Self::System(_) => entry.is_open_to_others(),
            Self::Image(root) => of_image(entry.as_fd(), root, evidence.ask),
        }
    }
}

/// Why a file is not of the image.
fn of_image(file: BorrowedFd<'_>, root: &Root, ask: &Ask) -> io::Result<Option<String>> {
    let answer = ask(file, root)?;
    if is_of_image(answer) {
        return Ok(None);
    }
    let why = if answer & IN_ROOT == 0 {
        "it lies on another mount than its container's root (a volume, a tmpfs, another container)"
    } else if answer & FOREIGN != 0 {
        "it lies on a file system that somebody mounted in the pod, not the container's runtime"
    } else if answer & (READ_ONLY | IN_LAYERS) == 0 {
        "it lies on a file system that does not tell the image from later changes (neither an overlay nor one that is never written)"
    } else {
        debug_assert!(answer & CHANGED != 0);
        "it was made or changed after its container was"
    };
    Ok(Some(why.into()))
}

fn unknown(cause: io::Error) -> Refusal {
    Refusal::Unknown {
        what: "where the file it executes comes from could not be looked at",
        cause,
    }
}
