//! `kernelseal inject` adds the sidecar to the pods of manifests, `uninject` takes it away again; the rest stays as
//! it was.
//!
//! The way of a manifest: `manifest` reads the text; `tree` has every node with its place in it; `workload` finds
//! objects and their pods; `plan` says what each lacks, as `edit`s of what `sidecar` writes, or `removal` what it
//! has; `text` carries them out. The result is read again and must mean what the edits say as a JSON patch. The
//! webhook takes the same plan and answers with that patch.

mod command;
mod edit;
mod fault;
mod fits;
mod manifest;
mod notes;
mod options;
mod plan;
mod removal;
mod report;
mod sidecar;
mod surroundings;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod work;
mod workload;

use std::path::Path;

use serde_json::Value;

// By way of the room above, for tests/parsers, which includes this one without the rest.
use super::super::config::{Position, yaml_syntax};

pub(crate) use self::{
    command::{Inject, Said, Uninject},
    fault::{Fault, Faults},
    options::Options,
    report::{Outcome, Report},
    surroundings::Surroundings,
    workload::PodPath,
};
use self::{
    edit::Edit,
    plan::{Plan, Remark},
    tree::Node,
    work::{Step, Work},
};

/// A manifest has at most this many bytes.
pub(crate) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What is asked of [`edit()`].
pub(crate) struct Request<'a> {
    pub(crate) task: Task,
    pub(crate) options: &'a Options,
    pub(crate) unfit: Unfit,
    /// Where pods are in kinds that are not known here.
    pub(crate) pod_paths: &'a [PodPath],
    /// What is known from other parts of the same stream.
    pub(crate) surroundings: &'a Surroundings,
}

/// What is to be done to every pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Add the sidecar where there is none.
    Add,
    /// The same, and replace one that differs from what would be added.
    Upgrade,
    /// Take it away, with all that came with it.
    Remove,
}

/// A manifest with the sidecar in it, or without.
#[derive(Debug, Default)]
pub(crate) struct Edited {
    /// What to apply.
    pub(crate) text: String,
    /// What became of each object, in the file's order.
    pub(crate) objects: Vec<Report>,
    /// What the user should know, in the file's order.
    pub(crate) notes: Vec<Fault>,
}

/// What becomes of pods that cannot have a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Nothing is written.
    Fail,
    /// They stay as they are, with a note.
    Keep,
}

/// Does a task to every pod in a text of YAML or JSON documents. `file` is its name in errors.
///
/// # Errors
///
/// When the text is not YAML, when a pod cannot have the sidecar ([`Unfit::Fail`]), or when it is written
/// in a way that cannot be edited.
pub(crate) fn edit(source: &str, file: &Path, request: &Request) -> Result<Edited, Faults> {
    let (mut done, mut faults) = (Edited::default(), Vec::new());
    for piece in manifest::pieces(source) {
        match edit_piece(piece.text, file, request) {
            Ok(mut edited) => {
                done.text += &edited.text;
                for report in &mut edited.objects {
                    report.at = piece.place(report.at);
                }
                for note in &mut edited.notes {
                    note.at = note.at.map(|at| piece.place(at));
                }
                done.objects.append(&mut edited.objects);
                done.notes.append(&mut edited.notes);
            }
            Err(found) => faults.extend(found.0.into_iter().map(|mut fault| {
                fault.at = fault.at.map(|at| piece.place(at));
                fault
            })),
        }
    }
    if faults.is_empty() {
        Ok(done)
    } else {
        Err(Faults(faults))
    }
}

fn edit_piece(source: &str, file: &Path, request: &Request) -> Result<Edited, Faults> {
    match request.task {
        Task::Add => carry_out(source, file, request, Step::Add),
        Task::Remove => carry_out(source, file, request, Step::Remove),
        Task::Upgrade => {
            // What is told is told by the first step, whose places are those of the source.
            let mut edited = carry_out(source, file, request, Step::RemoveStale)?;
            edited.text = carry_out(&edited.text, file, request, Step::Add)?.text;
            Ok(edited)
        }
    }
}

fn carry_out(source: &str, file: &Path, request: &Request, step: Step) -> Result<Edited, Faults> {
    // Whole lines only from here on.
    let is_whole = source.ends_with('\n') || source.is_empty();
    let whole = if is_whole {
        source.to_owned()
    } else {
        format!("{source}\n")
    };
    let documents = read(&whole, file)?;

    let mut work = Work::new(&whole, file, request, step);
    let wanted: Vec<Value> = documents
        .iter()
        .map(|document| work.document(document))
        .collect();
    if !work.faults.is_empty() {
        return Err(Faults(work.faults));
    }
    let (changes, objects, notes) = (work.changes, work.objects, work.notes);
    if changes.is_empty() {
        return Ok(Edited {
            text: source.to_owned(),
            objects,
            notes,
        });
    }
    let mut text = text::apply(&whole, changes);
    let means: Vec<Value> = read(&text, file)?.iter().map(Node::to_json).collect();
    if means != wanted {
        return Err(Faults(vec![Fault {
            file: file.to_owned(),
            at: None,
            message: "the edited text would not mean what it should: nothing was written".into(),
            help: "this is a fault of kernelseal, please report it; write the manifest in plain block style meanwhile".into(),
        }]));
    }
    // The line break that was not there is taken back, if the last line is still the old one.
    let last = source.rsplit('\n').next().unwrap_or_default();
    if !is_whole && text.trim_end_matches('\n').ends_with(last) {
        text.pop();
    }
    Ok(Edited {
        text,
        objects,
        notes,
    })
}

/// The JSON patch that adds the sidecar to a pod, and notes; none if it has it or declines it.
///
/// # Errors
///
/// Why this pod cannot have it, and what to do.
pub(crate) fn patch(
    pod: &Value,
    options: &Options,
) -> Result<(json_patch::Patch, Vec<String>), String> {
    if plan::declines(pod) {
        return Ok((json_patch::Patch::default(), Vec::new()));
    }
    let say = |remark: &Remark| format!("{}: {}; {}", remark.at, remark.message, remark.help);
    let Plan { edits, notes, .. } =
        plan::plan(pod, options, &Surroundings::default()).map_err(|remark| say(&remark))?;
    let operations = edits.iter().flat_map(Edit::operations).collect();
    Ok((
        json_patch::Patch(operations),
        notes.iter().map(say).collect(),
    ))
}

fn read(text: &str, file: &Path) -> Result<Vec<Node>, Faults> {
    tree::read(text).map_err(|problem| {
        Faults(vec![Fault {
            file: file.to_owned(),
            at: Some(problem.at),
            message: problem.message,
            help: problem.help.into(),
        }])
    })
}
