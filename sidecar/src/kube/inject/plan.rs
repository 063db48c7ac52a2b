//! What a pod lacks to have the sidecar: decided on its JSON alone, for `inject` and the webhook alike.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::{
    edit::Edit,
    fits, notes,
    options::Options,
    sidecar::{self, Piece, RUN},
    surroundings::Surroundings,
};

/// On a pod, as label or annotation: "false" keeps the sidecar away. The webhook is asked by the label "true".
pub(crate) const INJECT: &str = "kernelseal.io/inject";
/// On a pod: the `ConfigMap` with its configuration.
pub(super) const CONFIG_MAP: &str = "kernelseal.io/config-map";
/// What `kubectl logs` and `exec` mean when they name no container.
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// What the sidecar records of itself: that `shareProcessNamespace` came with it, and the annotation
/// [`DEFAULT_CONTAINER`]. `uninject` takes back what is recorded.
pub(super) const ADDED_SHARED_NAMESPACE: &str = "shareProcessNamespace";
pub(super) const ADDED_DEFAULT_CONTAINER: &str = "default-container";

/// The edits, in an order in which they may be carried out, and what the user should know.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    pub(super) notes: Vec<Remark>,
    pub(super) presence: Presence,
}

/// Whether the pod has the sidecar before anything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It has none, and is to have one.
    Absent,
    /// It has the one that would be added.
    Same,
    /// It has one that differs from what would be added.
    Different,
}

/// Something about a place in the pod: a reason against the sidecar, or a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) at: PointerBuf,
    pub(super) message: String,
    pub(super) help: String,
}

/// Plans for a pod, or a pod's template. The error is why it cannot have the sidecar.
pub(super) fn plan(
    pod: &Value,
    options: &Options,
    surroundings: &Surroundings,
) -> Result<Plan, Remark> {
    fits::check(pod, options, surroundings)?;
    let config_map = fits::config_map(pod, options)?;
    let spec = &pod["spec"];
    let (mut edits, mut notes) = (Vec::new(), Vec::new());

    let mut mounts_run = false;
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            if container["name"] == options.name.as_str() {
                continue;
            }
            mounts_run |= mount_run(
                container,
                options,
                &pointer(&["spec", list, &index.to_string()]),
                &mut edits,
            );
        }
    }
    let mut added = Vec::new();
    if spec["shareProcessNamespace"].is_null() {
        edits.push(entry(
            &["spec"],
            "shareProcessNamespace",
            Piece::new("true"),
        ));
        added.push(ADDED_SHARED_NAMESPACE);
    }
    // (Carried out last: what is added to the end of the specification comes before it.)
    let mut annotations = Vec::new();
    if options.older_cluster && annotate(pod, options, &mut annotations) {
        added.push(ADDED_DEFAULT_CONTAINER);
    }
    let there = present(spec, &options.name);
    // What was added before us is known to the one that is there.
    let added = there.as_ref().map_or_else(
        || added.join(","),
        |(_, own)| sidecar::added_of(own).to_owned(),
    );
    let wanted = sidecar::container(options, &added);
    let presence = match &there {
        None => Presence::Absent,
        Some((_, container)) if **container == wanted.value[0] => Presence::Same,
        Some(_) => Presence::Different,
    };
    match &there {
        None => {
            let list = if options.older_cluster { "containers" } else { "initContainers" };
            add(spec, list, true, vec![wanted], &mut edits);
        }
        Some((at, _)) if presence == Presence::Different => notes.push(remark(
            at.clone(),
            &format!(
                "the container {} is there already and differs from what would be added; it is left as it is",
                options.name
            ),
            "to have it anew, use --upgrade; for another name, use --name",
        )),
        Some(_) => {}
    }
    let (mut presence, mut lacking) = (presence, Vec::new());
    for volume in sidecar::volumes(options, &config_map, mounts_run) {
        let wanted = &volume.value[0];
        let mut numbered = items(&spec["volumes"]).enumerate();
        let Some((index, found)) = numbered.find(|(_, found)| found["name"] == wanted["name"])
        else {
            lacking.push(volume);
            continue;
        };
        // How large the place for secret files is may be the author's choice.
        let is_run = wanted["emptyDir"].is_object();
        if found == wanted || is_run {
            continue;
        }
        if presence == Presence::Same {
            presence = Presence::Different;
        }
        notes.push(remark(
            pointer(&["spec", "volumes", &index.to_string()]),
            &format!(
                "the volume {} is there already and differs from what would be added; it is left as it is",
                wanted["name"].as_str().unwrap_or_default()
            ),
            "to have it anew along with the sidecar, use --upgrade",
        ));
    }
    add(spec, "volumes", false, lacking, &mut edits);
    edits.extend(annotations);
    notes.extend(notes::about(pod, options, surroundings, &config_map));
    Ok(Plan {
        edits,
        notes,
        presence,
    })
}

/// Whether the pod says that it wants no sidecar.
pub(super) fn declines(pod: &Value) -> bool {
    let says = |field: &str| pod["metadata"][field][INJECT] == "false";
    says("labels") || says("annotations")
}

/// The container of our name, wherever it is.
pub(super) fn present<'a>(spec: &'a Value, name: &str) -> Option<(PointerBuf, &'a Value)> {
    ["initContainers", "containers"]
        .into_iter()
        .find_map(|list| {
            let mut containers = items(&spec[list]).enumerate();
            let (index, found) = containers.find(|(_, container)| container["name"] == name)?;
            Some((pointer(&["spec", list, &index.to_string()]), found))
        })
}

/// Secret files need a place. Where the root file system is read-only and nobody mounted one, a shared volume is it.
fn mount_run(container: &Value, options: &Options, at: &PointerBuf, edits: &mut Vec<Edit>) -> bool {
    let mounts = &container["volumeMounts"];
    let own = format!("{}-run", options.name);
    if items(mounts).any(|mount| mount["name"] == own.as_str()) {
        return true;
    }
    let is_read_only = container["securityContext"]["readOnlyRootFilesystem"] == true;
    if !is_read_only || items(mounts).any(|mount| mount["mountPath"] == RUN) {
        return false;
    }
    edits.push(if items(mounts).next().is_some() {
        Edit::Items {
            list: at.concat(&pointer(&["volumeMounts"])),
            front: false,
            items: sidecar::run_mount(options),
        }
    } else {
        Edit::Entry {
            map: at.clone(),
            key: "volumeMounts".into(),
            value: sidecar::run_mount(options),
        }
    });
    true
}

/// Adds to a list in the specification, or makes it. The pieces are lists.
fn add(spec: &Value, list: &str, front: bool, pieces: Vec<Piece>, edits: &mut Vec<Edit>) {
    let Some(all) = pieces.into_iter().reduce(joined) else {
        return;
    };
    edits.push(if items(&spec[list]).next().is_some() {
        Edit::Items {
            list: pointer(&["spec", list]),
            front,
            items: all,
        }
    } else {
        entry(&["spec"], list, all)
    });
}

fn joined(mut one: Piece, other: Piece) -> Piece {
    one.text = format!("{}\n{}", one.text, other.text);
    if let (Value::Array(items), Value::Array(more)) = (&mut one.value, other.value) {
        items.extend(more);
    }
    one
}

/// Without native sidecars there is no `appArmorProfile` either. And `kubectl logs` should go on to mean the
/// application, though ours is the first container now. Says whether that needed an annotation.
fn annotate(pod: &Value, options: &Options, edits: &mut Vec<Edit>) -> bool {
    let mut wanted = vec![(
        sidecar::old_apparmor(&options.name),
        "unconfined".to_owned(),
    )];
    let first = items(&pod["spec"]["containers"])
        .filter_map(|container| container["name"].as_str())
        .find(|name| *name != options.name);
    if let Some(name) = first {
        wanted.push((DEFAULT_CONTAINER.to_owned(), name.to_owned()));
    }
    let annotations = &pod["metadata"]["annotations"];
    wanted.retain(|(key, _)| annotations[key].is_null());
    if wanted.is_empty() {
        return false;
    }
    let names_default = wanted.iter().any(|(key, _)| key == DEFAULT_CONTAINER);
    if annotations
        .as_object()
        .is_some_and(|there| !there.is_empty())
    {
        edits.extend(
            wanted
                .iter()
                .map(|(key, value)| entry(&["metadata", "annotations"], key, Piece::quoted(value))),
        );
        return names_default;
    }
    let lines: Vec<_> = wanted
        .iter()
        .map(|(key, value)| format!("{key}: {}", Value::from(value.as_str())))
        .collect();
    let annotations = lines.join("\n");
    if pod["metadata"]
        .as_object()
        .is_some_and(|there| !there.is_empty())
    {
        edits.push(entry(&["metadata"], "annotations", Piece::new(annotations)));
    } else {
        let metadata = format!("annotations:\n  {}", annotations.replace('\n', "\n  "));
        edits.push(entry(&[], "metadata", Piece::new(metadata)));
    }
    names_default
}

pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub(super) fn pointer(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(tokens.iter().copied())
}

fn entry(map: &[&str], key: &str, value: Piece) -> Edit {
    Edit::Entry {
        map: pointer(map),
        key: key.to_owned(),
        value,
    }
}

pub(super) fn remark(at: PointerBuf, message: &str, help: &str) -> Remark {
    Remark {
        at,
        message: message.to_owned(),
        help: help.to_owned(),
    }
}
