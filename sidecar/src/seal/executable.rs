//! Identity of the file: is what runs the file that a binding means, by path and by content?

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _, path::Path};

use sidecar_common::policy::HeldFlags;

use super::{
    digests::{Known, Target},
    provenance,
    stack::Stack,
    verify::{Evidence, Refusal},
};
use crate::{
    config::{Binding, Provenance},
    limits,
    process::{Content, FileId, Interpreter, Script},
};

/// Whether the file is the one the binding means.
pub(super) fn is_bound_executable(
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<(), Refusal> {
    let held = evidence.held;
    let asked_for = (held.flags.contains(HeldFlags::SCRIPT)).then_some(Script {
        id: FileId {
            dev: held.file_dev,
            ino: held.file_ino,
        },
        is_executed: evidence.is_executed,
    });
    let selector = &binding.selector;
    let named = Some(Path::new(&selector.binary)).filter(|path| path.is_absolute());
    if let Some(named) = named {
        is_at(named, asked_for, binding, evidence)?;
    }
    let wanted = provenance::wanted(binding, evidence);
    provenance::check(wanted, asked_for, binding, evidence)?;
    if named.is_none() && selector.sha256.is_none() && wanted == Provenance::Any {
        return Ok(()); // a name is only a name
    }
    let Some(script) = asked_for else {
        return match &selector.sha256 {
            Some(wanted) => has_digest(wanted, None, binding, evidence).map(drop),
            None => Ok(()),
        };
    };
    let executed = evidence.stack.and_then(Stack::execfn_path);
    let executed = executed
        .ok_or_else(|| unknown("the path of the script")(io::Error::other("it cannot be read")))?;
    let path = named.unwrap_or_else(|| Path::new(OsStr::from_bytes(executed)));
    let interpreter = match &selector.sha256 {
        Some(wanted) => has_digest(wanted, Some((path, script)), binding, evidence)?,
        None => evidence
            .process
            .scripts_interpreter(path, script)
            .map_err(unknown("the script"))?,
    };
    is_run_by(interpreter, executed, evidence)
}

/// Checks that a script is run by the interpreter that its first line names, with the arguments that this line gives. Otherwise
/// `binfmt_misc` may have given the file to another interpreter (itself perhaps a script for the right one), or the file got its
/// right content only after the exec of other content.
fn is_run_by(
    interpreter: Option<Interpreter>,
    executed: &[u8],
    evidence: &Evidence<'_>,
) -> Result<(), Refusal> {
    let arguments = match interpreter {
        Some(named) => evidence
            .process
            .scripts_arguments(executed, named)
            .map_err(unknown("the interpreter of the script"))?,
        None => None,
    };
    match (arguments, evidence.stack) {
        (Some(arguments), Some(stack)) if stack.begins_with(&arguments) => Ok(()),
        _ => Err(Refusal::OtherInterpreter {
            executed: evidence.executed(),
        }),
    }
}

fn unknown(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |cause| Refusal::Unknown { what, cause }
}

/// Whether what was asked for (the script, or what runs) is the file at that path.
fn is_at(
    named: &Path,
    script: Option<Script<'_>>,
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<(), Refusal> {
    let process = evidence.process;
    let is_it = if let Some(script) = script {
        process.is_script_at(named, script)
    } else {
        let executed = process.executable_file();
        let executed = executed.map_err(unknown("the file it executes"))?;
        process.file_at(named).map(|found| found == executed)
    };
    if leads_there(is_it)? {
        return Ok(());
    }
    Err(Refusal::OtherFile {
        executed: evidence.executed(),
        wanted: binding.selector.binary.clone(),
        binding: binding.name.clone(),
    })
}

/// Whether it is what was found. Where nothing is, there is another file or none; where it could not be looked at, it is not
/// known.
fn leads_there(is_it: io::Result<bool>) -> Result<bool, Refusal> {
    match is_it {
        Ok(is_it) => Ok(is_it),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(unknown(
            "the file at the binding's path could not be looked at",
        )(e)),
    }
}

/// Whether the script, or what runs, has that content; the interpreter that it names.
fn has_digest(
    wanted: &str,
    script: Option<(&Path, Script<'_>)>,
    binding: &Binding,
    evidence: &Evidence<'_>,
) -> Result<Option<Interpreter>, Refusal> {
    if evidence.held.flags.contains(HeldFlags::WRITABLE) {
        return Err(Refusal::Writable {
            executed: evidence.executed(),
            binding: binding.name.clone(),
        });
    }
    let target = match script {
        Some((path, script)) => Target::Script(path.to_owned(), script.id),
        None => Target::Executable,
    };
    let unknown = unknown("the file it executes");
    let mut digests = evidence.digests.borrow_mut();
    let known = digests.look_up(evidence.held, &binding.name, &target);
    let Known::Counted(outcome) = known.map_err(&unknown)? else {
        return Err(Refusal::NotCounted);
    };
    let Content {
        sha256: found,
        interpreter,
    } = match &*outcome {
        Ok(content) => content,
        Err(e) => {
            if limits::is_for_lack(e) {
                digests.forget(evidence.held.seal); // to be counted anew
            }
            return Err(unknown(limits::same(e)));
        }
    };
    if found.eq_ignore_ascii_case(wanted) {
        return Ok(interpreter.clone());
    }
    Err(Refusal::OtherContent {
        executed: evidence.executed(),
        found: found.clone(),
        binding: binding.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_error_is_no_mismatch() {
        assert!(leads_there(Ok(true)).unwrap());
        assert!(!leads_there(Ok(false)).unwrap());
        assert!(!leads_there(Err(Errno::NOENT.into())).unwrap());
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::IO,
            Errno::ACCESS,
            Errno::LOOP,
            Errno::STALE,
        ] {
            let refusal = leads_there(Err(errno.into())).unwrap_err();
            let text = refusal.to_string();
            assert!(text.contains("could not be looked at"), "{text}");
            assert!(text.contains(&io::Error::from(errno).to_string()), "{text}");
            let is_for_lack = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno);
            assert_eq!(refusal.is_for_lack(), is_for_lack, "{text}");
        }
    }
}
