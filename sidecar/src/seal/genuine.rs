//! Identity of the file: is what runs the file that a binding means, by path and by content?

use std::{
    io,
    path::{Path, PathBuf},
};

use sidecar_common::policy::{HELD_SCRIPT, HELD_WRITABLE};

use super::verify::{Evidence, Refusal};
use crate::{
    config::Binding,
    process::{Content, FileId},
};

/// Whether the file is the one the binding means.
pub(super) fn is_genuine(binding: &Binding, evidence: &Evidence<'_>) -> Result<(), Refusal> {
    let Evidence {
        held,
        process,
        path,
        ..
    } = *evidence;
    let asked_for = (held.flags & HELD_SCRIPT != 0).then_some(FileId {
        dev: held.file_dev,
        ino: held.file_ino,
    });
    let selector = &binding.selector;
    let named = Some(Path::new(&selector.binary)).filter(|path| path.is_absolute());
    if let Some(named) = named {
        is_at(named, asked_for, binding, evidence)?;
    } else if selector.sha256.is_none() {
        return Ok(()); // a name is only a name
    }
    let script = match asked_for {
        Some(id) => {
            let path = named.or(path).ok_or_else(|| Refusal::Unknown {
                what: "the path of the script",
                cause: io::Error::other("it cannot be read"),
            })?;
            Some((path, id))
        }
        None => None,
    };
    let interpreter = match (&selector.sha256, script) {
        (Some(wanted), _) => has_digest(wanted, script, binding, evidence)?,
        (None, Some((path, id))) => process
            .scripts_interpreter(path, id)
            .map_err(unknown("the script"))?,
        (None, None) => return Ok(()),
    };
    // Any file may be given to an interpreter of somebody's choice (binfmt_misc); and the right bytes may have come there
    // after the exec of others. What was executed as a script must be one, and run by what it names.
    let is_run_as_named = match (script, interpreter) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(_), Some(named)) => process
            .executes_named(&named)
            .map_err(unknown("the interpreter of the script"))?,
    };
    if is_run_as_named {
        return Ok(());
    }
    Err(Refusal::OtherInterpreter {
        executed: evidence.executed(),
    })
}

fn unknown(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |cause| Refusal::Unknown { what, cause }
}

/// Whether what was asked for (the script, or what runs) is the file at that path.
fn is_at(
    named: &Path,
    script: Option<FileId>,
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<(), Refusal> {
    let process = evidence.process;
    let asked_for = match script {
        Some(script) => script,
        None => process
            .executable_file()
            .map_err(unknown("the file it executes"))?,
    };
    if process.file_at(named).ok() == Some(asked_for) {
        return Ok(());
    }
    Err(Refusal::OtherFile {
        executed: evidence.executed(),
        wanted: binding.selector.binary.clone(),
        binding: binding.name.clone(),
    })
}

/// Whether the script, or what runs, has that content; the interpreter that it names.
fn has_digest(
    wanted: &str,
    script: Option<(&Path, FileId)>,
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<Option<PathBuf>, Refusal> {
    if evidence.held.flags & HELD_WRITABLE != 0 {
        return Err(Refusal::Writable {
            executed: evidence.executed(),
            binding: binding.name.clone(),
        });
    }
    let content = match script {
        Some((path, id)) => evidence.process.script(path, id, evidence.is_held),
        None => evidence.process.executable_content(evidence.is_held),
    };
    let Content {
        sha256: found,
        interpreter,
    } = content
        .map_err(unknown("the file it executes"))?
        .ok_or(Refusal::NoLongerHeld)?;
    if found.eq_ignore_ascii_case(wanted) {
        return Ok(interpreter);
    }
    Err(Refusal::OtherContent {
        executed: evidence.executed(),
        found,
        binding: binding.name.clone(),
    })
}
