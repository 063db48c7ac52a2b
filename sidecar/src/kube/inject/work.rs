//! A manifest on its way: what is decided of each object, and the changes to the text.

use std::path::Path;

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::{
    Fault, Outcome, Report, Request, Unfit,
    edit::Edit,
    plan::{self, INJECT, Plan, Presence, Remark},
    removal::{self, Removal},
    text::{Change, Source},
    tree::{self, Kind, Node},
    workload::{self, Object},
};

/// What is done to each pod in one pass over the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Adds the sidecar.
    Add,
    /// Takes it away where it differs from what would be added, and tells all of it.
    RemoveStale,
    /// Takes it away.
    Remove,
}

/// A text on its way.
pub(super) struct Work<'a> {
    source: Source<'a>,
    file: &'a Path,
    request: &'a Request<'a>,
    step: Step,
    pub(super) changes: Vec<Change>,
    pub(super) objects: Vec<Report>,
    pub(super) notes: Vec<Fault>,
    pub(super) faults: Vec<Fault>,
}

/// What is done to a pod.
struct Decision {
    outcome: Outcome,
    edits: Vec<Edit>,
    notes: Vec<Remark>,
}

impl<'a> Work<'a> {
    /// The work on whole lines of text.
    pub(super) fn new(
        source: &'a str,
        file: &'a Path,
        request: &'a Request<'a>,
        step: Step,
    ) -> Self {
        Self {
            source: Source(source),
            file,
            request,
            step,
            changes: Vec::new(),
            objects: Vec::new(),
            notes: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Decides of a document's objects and collects the changes. Gives what the document is to mean.
    pub(super) fn document(&mut self, document: &Node) -> Value {
        let mut json = document.to_json();
        for object in workload::objects(&json, self.request.pod_paths) {
            match &object.pod {
                Ok(pod) => self.pod(document, &object, pod, &mut json),
                Err(none) => {
                    let outcome = Outcome::Skipped(none.why.clone());
                    let at = place(document, &object.at);
                    self.report(at, &object, outcome, none.help.clone());
                }
            }
        }
        json
    }

    fn pod(&mut self, document: &Node, object: &Object, at: &PointerBuf, json: &mut Value) {
        let value = json.pointer(at.as_str()).unwrap_or(&Value::Null);
        let whole = json.pointer(object.at.as_str()).unwrap_or(&Value::Null);
        let own = place(document, &object.at);
        if self.step != Step::Remove && (plan::declines(whole) || plan::declines(value)) {
            let outcome = Outcome::Skipped(format!("{INJECT} is \"false\""));
            self.report(own, object, outcome, String::new());
            return;
        }
        let doubtful =
            doubled(document, at).or_else(|| node_at(document, at).and_then(Node::ambiguous_key));
        if let Some((key, what)) = doubtful {
            self.faults.push(self.fault(
                key,
                format!("{what}: readers of this document disagree on what the pod is"),
                "write each key once; render templates first, as by `helm template`".into(),
            ));
            return;
        }
        let decision = match self.decide(value) {
            Ok(decision) => decision,
            Err(why) => return self.unfit(document, object, at, why),
        };
        let (outcome, mut remarks) = (decision.outcome, decision.notes);
        for remark in &mut remarks {
            remark.at = at.concat(&remark.at);
        }
        if matches!(outcome, Outcome::Injected | Outcome::Upgraded) {
            remarks.extend(self.about_object(whole, object));
        }
        self.report(own, object, outcome, String::new());
        for remark in remarks {
            let at = place(document, &remark.at);
            self.notes.push(self.fault(at, remark.message, remark.help));
        }
        let edits: Vec<_> = decision
            .edits
            .into_iter()
            .map(|edit| edit.below(at))
            .collect();
        self.carry_out(document, at, &edits, json);
    }

    /// The error is why the pod cannot have the sidecar, or be without it.
    fn decide(&self, pod: &Value) -> Result<Decision, Remark> {
        let options = self.request.options;
        if self.step == Step::Remove {
            let removal = removal::removal(pod, &options.name)?;
            let is_there = removal.is_some();
            let (edits, notes) = removal.map_or_else(Default::default, |it| (it.edits, it.notes));
            return Ok(Decision {
                outcome: if is_there {
                    Outcome::Removed
                } else {
                    Outcome::Skipped("it has no sidecar".into())
                },
                edits,
                notes,
            });
        }
        let Plan {
            edits,
            notes,
            presence,
        } = plan::plan(pod, options, self.request.surroundings)?;
        if self.step == Step::RemoveStale && presence == Presence::Different {
            return self.renew(pod);
        }
        let outcome = match presence {
            Presence::Absent => Outcome::Injected,
            Presence::Same if edits.is_empty() => Outcome::AlreadyThere,
            Presence::Same => Outcome::Completed,
            Presence::Different => Outcome::Different,
        };
        let edits = if self.step == Step::Add {
            edits
        } else {
            Vec::new()
        };
        Ok(Decision {
            outcome,
            edits,
            notes,
        })
    }

    /// Takes away a sidecar that the next step adds anew, after a look whether it can.
    fn renew(&self, pod: &Value) -> Result<Decision, Remark> {
        let options = self.request.options;
        let Removal { edits, .. } =
            removal::removal(pod, &options.name)?.unwrap_or_else(Removal::nothing);
        let mut without = pod.clone();
        let operations: Vec<_> = edits.iter().flat_map(Edit::operations).collect();
        // (Should it fail, it fails below, with a message.)
        let _ = json_patch::patch(&mut without, &operations);
        let Plan { notes, .. } = plan::plan(&without, options, self.request.surroundings)?;
        Ok(Decision {
            outcome: Outcome::Upgraded,
            edits,
            notes,
        })
    }

    /// What its namespace and its kind's controller will say to the sidecar.
    fn about_object(&self, whole: &Value, object: &Object) -> Vec<Remark> {
        let mut notes = Vec::new();
        let namespace = whole["metadata"]["namespace"].as_str().unwrap_or("default");
        if let Some(level) = self.request.surroundings.forbidding_level(namespace) {
            notes.push(plan::remark(
                object.at.concat(&plan::pointer(&["metadata", "namespace"])),
                &format!(
                    "the pod's namespace enforces Pod Security's level {level}, which refuses the sidecar's capabilities and its hostPath volume"
                ),
                "label the namespace pod-security.kubernetes.io/enforce: privileged, or guard its pods from the node with deploy/daemonset.yaml",
            ));
        }
        if object.is_knative {
            notes.push(plan::remark(
                object.at.clone(),
                "Knative refuses init containers, shareProcessNamespace and hostPath volumes unless its features are enabled",
                &format!(
                    "enable kubernetes.podspec-init-containers, -shareprocessnamespace and -volumes-hostpath in its ConfigMap config-features, or label the template {INJECT}: \"true\" and let `kernelseal webhook` change the pods"
                ),
            ));
        }
        notes
    }

    fn report(&mut self, at: &Node, object: &Object, outcome: Outcome, help: String) {
        self.objects.push(Report {
            file: self.file.to_owned(),
            at: at.at,
            title: object.title.clone(),
            outcome,
            help,
        });
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

    fn unfit(&mut self, document: &Node, object: &Object, pod: &PointerBuf, why: Remark) {
        let at = place(document, &pod.concat(&why.at));
        match self.request.unfit {
            Unfit::Fail => self.faults.push(self.fault(at, why.message, why.help)),
            Unfit::Keep => self.report(at, object, Outcome::Skipped(why.message), why.help),
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
