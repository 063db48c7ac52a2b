//! `kernelseal inject`: adds the sidecar to the pods of a manifest, and leaves the rest as it was.
//!
//! The way of a manifest: `tree` reads it with every node's place in the text; `workload` finds the
//! pods; `plan` says what each lacks, as `edit`s of what `sidecar` writes; `text` carries them out in
//! the text. The result is read again and must mean what the edits say as a JSON patch. The webhook
//! takes the same plan and answers with that patch.

mod edit;
mod fault;
mod options;
mod plan;
mod sidecar;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod workload;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

// By way of the room above, for tests/parsers, which includes this one without the rest.
use super::super::config::{Position, yaml_syntax};

use self::{
    edit::Edit,
    plan::{INJECT, Plan, Remark},
    text::{Change, Source},
    tree::{Kind, Node},
};
pub(crate) use self::{
    fault::{Fault, Faults},
    options::Options,
};

/// A manifest has at most this many bytes.
pub(crate) const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A manifest with the sidecar in it.
#[derive(Debug)]
pub(crate) struct Injected {
    /// What to apply.
    pub(crate) text: String,
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

/// What a file is called in errors.
pub(crate) fn name(file: &Path) -> &Path {
    if file == Path::new("-") {
        Path::new("<stdin>")
    } else {
        file
    }
}

/// Reads a manifest; `-` is standard input.
///
/// # Errors
///
/// When it cannot be read, is longer than [`MAX_BYTES`], or is not UTF-8.
pub(crate) fn load(file: &Path) -> Result<String, Faults> {
    let failed = |message: String, help: &str| {
        Faults(vec![Fault {
            file: name(file).to_owned(),
            at: None,
            message,
            help: help.into(),
        }])
    };
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        failed(
            format!("cannot read the manifest: {error}"),
            "name a file with `-f`, or `-f -` for standard input",
        )
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(format!("longer than {MAX_BYTES} bytes"), "split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = String::from_utf8_lossy(&error.as_bytes()[..at])
            .matches('\n')
            .count()
            + 1;
        failed(
            format!("not UTF-8 text in line {line}"),
            "save the file as UTF-8",
        )
    })
}

/// Adds the sidecar to every pod in a text of YAML or JSON documents. `file` is its name in errors.
///
/// # Errors
///
/// When the text is not YAML, when a pod cannot have the sidecar ([`Unfit::Fail`]), or when it is written
/// in a way that cannot be edited.
pub(crate) fn inject(
    source: &str,
    file: &Path,
    options: &Options,
    unfit: Unfit,
) -> Result<Injected, Faults> {
    // Whole lines only from here on.
    let is_whole = source.ends_with('\n') || source.is_empty();
    let whole = if is_whole {
        source.to_owned()
    } else {
        format!("{source}\n")
    };
    let documents = read(&whole, file)?;

    let mut work = Work {
        source: Source(&whole),
        file,
        options,
        unfit,
        changes: Vec::new(),
        notes: Vec::new(),
        faults: Vec::new(),
    };
    let wanted: Vec<Value> = documents
        .iter()
        .map(|document| work.document(document))
        .collect();
    if !work.faults.is_empty() {
        return Err(Faults(work.faults));
    }
    let (changes, notes) = (work.changes, work.notes);
    if changes.is_empty() {
        return Ok(Injected {
            text: source.to_owned(),
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
    Ok(Injected { text, notes })
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
    let say = |remark: &Remark| format!("{}: {}; {}", remark.at, remark.message, remark.help);
    let Plan { edits, notes } = plan::plan(pod, options).map_err(|remark| say(&remark))?;
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

/// A file on its way.
struct Work<'a> {
    source: Source<'a>,
    file: &'a Path,
    options: &'a Options,
    unfit: Unfit,
    changes: Vec<Change>,
    notes: Vec<Fault>,
    faults: Vec<Fault>,
}

impl Work<'_> {
    /// Plans for a document's pods and collects the changes. Gives what the document is to mean.
    fn document(&mut self, document: &Node) -> Value {
        let mut json = document.to_json();
        for pod in workload::pods(&json) {
            let value = json.pointer(pod.at.as_str()).unwrap_or(&Value::Null);
            let object = json.pointer(pod.object.as_str()).unwrap_or(&Value::Null);
            if plan::declines(object) || plan::declines(value) {
                let at = place(document, &pod.object);
                let message = format!("{INJECT} is \"false\": left as it is");
                self.notes.push(self.fault(at, message, String::new()));
                continue;
            }
            let doubtful = doubled(document, &pod.at)
                .or_else(|| node_at(document, &pod.at).and_then(Node::ambiguous_key));
            if let Some((key, what)) = doubtful {
                self.faults.push(self.fault(
                    key,
                    format!("{what}: what the pod is depends on who reads it"),
                    "write each key once".into(),
                ));
                continue;
            }
            let plan = match plan::plan(value, self.options) {
                Ok(plan) => plan,
                Err(why) => {
                    self.unfit(document, &pod.at, why);
                    continue;
                }
            };
            for note in plan.notes {
                let at = place(document, &pod.at.concat(&note.at));
                self.notes.push(self.fault(at, note.message, note.help));
            }
            let edits: Vec<_> = plan
                .edits
                .into_iter()
                .map(|edit| edit.below(&pod.at))
                .collect();
            self.carry_out(document, &pod.at, &edits, &mut json);
        }
        json
    }

    fn carry_out(&mut self, document: &Node, pod: &PointerBuf, edits: &[Edit], json: &mut Value) {
        let dashes = self.dashes(document, pod);
        for edit in edits {
            match self.source.change(document, edit, dashes) {
                Ok(changes) => self.changes.extend(changes),
                Err((at, message)) => self.faults.push(Fault {
                    file: self.file.to_owned(),
                    at: Some(at),
                    message: format!("{message}: the sidecar cannot be added here"),
                    help: "write it out, without aliases and `?` keys, a key a line".into(),
                }),
            }
        }
        let operations: Vec<_> = edits.iter().flat_map(Edit::operations).collect();
        if let Err(error) = json_patch::patch(json, &operations) {
            self.faults.push(self.fault(
                document,
                format!("the sidecar cannot be added: {error}"),
                "please report this".into(),
            ));
        }
    }

    fn unfit(&mut self, document: &Node, pod: &PointerBuf, why: Remark) {
        let at = place(document, &pod.concat(&why.at));
        match self.unfit {
            Unfit::Fail => self.faults.push(self.fault(at, why.message, why.help)),
            Unfit::Keep => {
                let message = format!("{}: left without the sidecar", why.message);
                self.notes.push(self.fault(at, message, why.help));
            }
        }
    }

    /// How far the document's author indents lists below their keys.
    fn dashes(&self, document: &Node, pod: &PointerBuf) -> usize {
        let usual = 2;
        let Some((key, list)) = node_at(document, pod)
            .and_then(|pod| pod.step("spec"))
            .and_then(|spec| spec.entry("containers"))
        else {
            return usual;
        };
        let Kind::List { flow: false, items } = &list.kind else {
            return usual;
        };
        let dash = items
            .first()
            .and_then(|item| self.source.column_of_dash(item));
        dash.map_or(usual, |column| column.saturating_sub(key.at.column - 1))
    }

    fn fault(&self, at: &Node, message: String, help: String) -> Fault {
        Fault {
            file: self.file.to_owned(),
            at: Some(at.at),
            message,
            help,
        }
    }
}

fn node_at<'a>(document: &'a Node, pointer: &PointerBuf) -> Option<&'a Node> {
    pointer
        .into_iter()
        .try_fold(document, |node, token| node.step(&token.decoded()))
}

/// The second of two equal keys on the way to a pod.
fn doubled<'a>(document: &'a Node, pod: &PointerBuf) -> Option<(&'a Node, &'static str)> {
    let mut node = document;
    for token in pod {
        let name = token.decoded();
        if let Kind::Map { entries, .. } = &node.kind {
            let mut keys = entries.iter().filter(|(key, _)| key.is_text(&name));
            if let Some((second, _)) = keys.nth(1) {
                return Some((second, tree::TWICE));
            }
        }
        node = node.step(&name)?;
    }
    None
}

/// The node at a pointer, or the last one on the way that is there.
fn place<'a>(document: &'a Node, pointer: &PointerBuf) -> &'a Node {
    let mut node = document;
    for token in pointer {
        match node.step(&token.decoded()) {
            Some(next) => node = next,
            None => break,
        }
    }
    node
}
