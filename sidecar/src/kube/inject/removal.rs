//! What a pod has of the sidecar, as edits that take it away again: the way back of `plan`.

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::{
    edit::Edit,
    plan::{
        self, ADDED_DEFAULT_CONTAINER, ADDED_SHARED_NAMESPACE, DEFAULT_CONTAINER, Remark, items,
        pointer, remark,
    },
    sidecar,
};

/// The edits, in an order in which they may be carried out, and what the user should know.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) edits: Vec<Edit>,
    pub(super) notes: Vec<Remark>,
}

impl Removal {
    /// Of a pod without a sidecar.
    pub(super) fn nothing() -> Self {
        Self {
            edits: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// How the sidecar called `name` is taken away; `None` if the pod has none. The error is why it cannot be.
pub(super) fn removal(pod: &Value, name: &str) -> Result<Option<Removal>, Remark> {
    let spec = &pod["spec"];
    let Some((at, own)) = plan::present(spec, name).filter(|(_, own)| sidecar::is_ours(own)) else {
        return Ok(None);
    };
    let list = if at.as_str().starts_with("/spec/initContainers") {
        "initContainers"
    } else {
        "containers"
    };
    if list == "containers" && items(&spec[list]).count() == 1 {
        return Err(remark(
            at,
            "the sidecar is the pod's only container: without it there is no pod",
            "remove the object itself",
        ));
    }
    let (mut cuts, mut notes) = (Cuts::default(), Vec::new());
    let mut kept = Vec::new();
    let run = format!("{name}-run");
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).enumerate() {
            if container["name"] == name {
                continue;
            }
            let at = pointer(&["spec", list, &index.to_string()]);
            let mut own = Cuts::default();
            own.items(&container["volumeMounts"], &at, "volumeMounts", |mount| {
                mount["name"] == run.as_str()
            });
            cuts.edits.extend(own.edits(&at));
            let mounts = items(&container["volumeMounts"]);
            kept.extend(mounts.filter_map(|mount| mount["name"].as_str()));
        }
    }
    // The volumes that it mounts and that are called as ours are; others were there for its author's reasons.
    let prefix = format!("{name}-");
    let mounted: Vec<_> = items(&own["volumeMounts"])
        .filter_map(|mount| mount["name"].as_str())
        .filter(|volume| volume.starts_with(&prefix) && !kept.contains(volume))
        .collect();
    let at = pointer(&["spec"]);
    cuts.items(&spec["volumes"], &at, "volumes", |volume| {
        volume["name"]
            .as_str()
            .is_some_and(|it| it == run || mounted.contains(&it))
    });
    cuts.items(&spec[list], &at, list, |container| {
        container["name"] == name
    });

    let added: Vec<_> = sidecar::added_of(own).split(',').collect();
    if added.contains(&ADDED_SHARED_NAMESPACE) && spec["shareProcessNamespace"] == true {
        cuts.keys.push("shareProcessNamespace".into());
    } else if spec["shareProcessNamespace"] == true {
        notes.push(remark(
            pointer(&["spec", "shareProcessNamespace"]),
            "shareProcessNamespace stays: nothing says that it came with the sidecar",
            "remove it, if no container needs to see the others' processes",
        ));
    }
    let mut edits = cuts.edits(&at);
    edits.extend(annotations(
        pod,
        name,
        added.contains(&ADDED_DEFAULT_CONTAINER),
    ));
    Ok(Some(Removal { edits, notes }))
}

/// What goes of a mapping, and of lists in it.
#[derive(Default)]
struct Cuts {
    keys: Vec<String>,
    edits: Vec<Edit>,
}

impl Cuts {
    /// Takes items out of a list; the list itself, if none is left.
    fn items(&mut self, list: &Value, map: &PointerBuf, key: &str, goes: impl Fn(&Value) -> bool) {
        let all = items(list).count();
        let numbered = items(list).enumerate().filter(|(_, item)| goes(item));
        let indices: Vec<_> = numbered.map(|(index, _)| index).collect();
        if indices.is_empty() {
            return;
        }
        if indices.len() == all {
            self.keys.push(key.to_owned());
        } else {
            self.edits.push(Edit::RemoveItems {
                list: map.concat(&pointer(&[key])),
                indices,
            });
        }
    }

    fn edits(mut self, map: &PointerBuf) -> Vec<Edit> {
        if !self.keys.is_empty() {
            self.edits.push(Edit::RemoveKeys {
                map: map.clone(),
                keys: self.keys,
            });
        }
        self.edits
    }
}

/// Those of `--older-cluster`, and the mappings that held nothing else.
fn annotations(pod: &Value, name: &str, default_container: bool) -> Option<Edit> {
    let metadata = &pod["metadata"];
    let there = metadata["annotations"].as_object()?;
    let apparmor = sidecar::old_apparmor(name);
    let goes = |key: &str| key == apparmor || default_container && key == DEFAULT_CONTAINER;
    let going: Vec<_> = there.keys().filter(|key| goes(key)).cloned().collect();
    if going.is_empty() {
        return None;
    }
    let (map, keys) = if going.len() < there.len() {
        (pointer(&["metadata", "annotations"]), going)
    } else if metadata.as_object().is_some_and(|all| all.len() > 1) {
        (pointer(&["metadata"]), vec!["annotations".to_owned()])
    } else {
        (pointer(&[]), vec!["metadata".to_owned()])
    };
    Some(Edit::RemoveKeys { map, keys })
}
