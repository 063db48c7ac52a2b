//! From the tree to the model: the bindings. Messages here never quote a value inside `source`.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{
    binding::{
        Binding, Delivery, FileAccess, FileMode, FileRef, OnRotate, Provenance, RotateSignal,
        SecretKeyRef, SecretRef, Selector, Source, VaultRef,
    },
    decode::absolute_path,
    decode_network::list,
    fields::{Fields, Report, quoted},
    keys, validate,
    yaml::{Kind, Node, Scalar},
};

/// One item of `secrets`.
pub(super) fn binding(report: &mut Report, node: &Node) -> Option<Binding> {
    let fields = Fields::open(report, node, &keys::BINDING)?;
    let name = required(report, &fields, "name", validate::binding_name);
    let selector = fields
        .require(report, "selector")
        .and_then(|node| selector(report, node));
    let delivery = fields
        .get("delivery")
        .map_or(Some(Delivery::default()), |node| delivery(report, node));
    let file = fields
        .get("file")
        .map_or(Some(FileAccess::default()), |node| file(report, node));
    let allow_variables = list(report, &fields, "allowVariables", |report, node, what| {
        report.text(node, what).map(str::to_owned)
    });
    let on_rotate = fields
        .get("onRotate")
        .map_or(Some(OnRotate::None), |node| on_rotate(report, node));
    let secret_refs = fields.require(report, "secretRefs").and_then(|node| {
        // Names are judged by the strictest delivery if that itself is wrong.
        secret_refs(report, node, delivery.unwrap_or_default())
    });
    Some(Binding {
        name: name?,
        selector: selector?,
        delivery: delivery?,
        file: file?,
        allow_variables: allow_variables?,
        on_rotate: on_rotate?,
        secret_refs: secret_refs?,
        at: node.mark.at,
    })
}

/// What is wrong is in the report already.
pub(super) struct Noted;

/// Text, if given, that passes a check; what the check says is put behind the key.
pub(super) fn optional(
    report: &mut Report,
    fields: &Fields,
    key: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Result<Option<String>, Noted> {
    let Some(node) = fields.get(key) else {
        return Ok(None);
    };
    let text = report.text(node, key).ok_or(Noted)?;
    if let Err(why) = check(text) {
        report.error(&node.mark, format!("{key} {why}"), "");
        return Err(Noted);
    }
    Ok(Some(text.to_owned()))
}

pub(super) fn required(
    report: &mut Report,
    fields: &Fields,
    key: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Option<String> {
    fields.require(report, key)?;
    optional(report, fields, key, check).ok()?
}

fn selector(report: &mut Report, node: &Node) -> Option<Selector> {
    let fields = Fields::open(report, node, &keys::SELECTOR)?;
    let binary = required(report, &fields, "binary", validate::binary);
    let sha256 = optional(report, &fields, "sha256", validate::sha256);
    let provenance = match fields.get("provenance") {
        Some(node) => report
            .choice(node, "provenance", &Provenance::NAMES)
            .map(Some),
        None => Some(None),
    };
    let container = optional(report, &fields, "container", validate::word);
    let namespace = optional(report, &fields, "namespace", validate::namespace);
    let labels = fields
        .get("labels")
        .map_or(Some(BTreeMap::new()), |node| labels(report, node));
    let cgroup_path = optional(report, &fields, "cgroupPath", validate::cgroup_path);
    let uid = match fields.get("uid") {
        Some(node) => report.number(node, "uid", u32::MAX).map(Some),
        None => Some(None),
    };
    Some(Selector {
        binary: binary?,
        // Digests are compared as text.
        sha256: sha256.ok()?.map(|digest| digest.to_ascii_lowercase()),
        provenance: provenance?,
        container: container.ok()?,
        namespace: namespace.ok()?,
        labels: labels?,
        cgroup_path: cgroup_path.ok()?.map(Into::into),
        uid: uid?,
        at: node.mark.at,
    })
}

fn labels(report: &mut Report, node: &Node) -> Option<BTreeMap<String, String>> {
    let Kind::Map(pairs) = &node.kind else {
        let message = format!("labels must be a mapping, not {}", node.describe());
        report.error(&node.mark, message, "write `labels: {app: checkout}`");
        return None;
    };
    let mut labels = BTreeMap::new();
    for (key, value) in pairs {
        let name = report.text(key, "a label's name")?.to_owned();
        let what = format!("label {}", quoted(&name));
        // Kubernetes allows an empty value.
        let text = match value.scalar() {
            Some(Scalar::Text("")) => "",
            _ => report.text(value, &what)?,
        };
        if labels.insert(name, text.to_owned()).is_some() {
            report.error(&key.mark, format!("{what} is given twice in labels"), "");
        }
    }
    Some(labels)
}

fn delivery(report: &mut Report, node: &Node) -> Option<Delivery> {
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Env,
        File,
    }
    let items = report.list(node, "delivery")?;
    if items.is_empty() {
        report.error(
            &node.mark,
            "delivery is empty",
            "write `env`, `file` or both, or remove the key",
        );
        return None;
    }
    let mut delivery = Delivery {
        env: false,
        file: false,
    };
    for item in items {
        let way = report.choice(item, "delivery", &[("env", Way::Env), ("file", Way::File)])?;
        let wanted = if way == Way::Env {
            &mut delivery.env
        } else {
            &mut delivery.file
        };
        if std::mem::replace(wanted, true) {
            report.error(
                &item.mark,
                format!("delivery lists {} twice", quoted(item.raw())),
                "",
            );
        }
    }
    Some(delivery)
}

fn file(report: &mut Report, node: &Node) -> Option<FileAccess> {
    let fields = Fields::open(report, node, &keys::FILE)?;
    let mode = match fields.get("mode") {
        Some(node) => report.choice(node, "mode", &FileMode::NAMES),
        None => Some(FileMode::default()),
    };
    let mut id = |key| match fields.get(key) {
        Some(node) => report.number(node, key, u32::MAX - 1).map(Some),
        None => Some(None),
    };
    let (uid, gid) = (id("uid"), id("gid"));
    Some(FileAccess {
        mode: mode?,
        uid: uid?,
        gid: gid?,
    })
}

fn on_rotate(report: &mut Report, node: &Node) -> Option<OnRotate> {
    if !matches!(node.kind, Kind::Map(_)) {
        let words = [("none", OnRotate::None), ("restart", OnRotate::Restart)];
        return report.choice(node, "onRotate", &words);
    }
    let fields = Fields::open(report, node, &keys::ON_ROTATE)?;
    let node = fields.require(report, "signal")?;
    let signal = report.choice(node, "signal", &RotateSignal::NAMES)?;
    Some(OnRotate::Signal(signal))
}

fn secret_refs(report: &mut Report, node: &Node, delivery: Delivery) -> Option<Vec<SecretRef>> {
    let items = report.list(node, "secretRefs")?;
    if items.is_empty() {
        let hint = "a binding gives at least one secret: add one, or remove the binding";
        report.error(&node.mark, "secretRefs is empty", hint);
    }
    let refs: Vec<_> = items
        .iter()
        .map(|item| secret_ref(report, item, delivery))
        .collect();
    refs.into_iter().collect()
}

fn secret_ref(report: &mut Report, node: &Node, delivery: Delivery) -> Option<SecretRef> {
    let fields = Fields::open(report, node, &keys::SECRET_REF)?;
    let name = fields
        .require(report, "name")
        .and_then(|node| secret_name(report, node, delivery));
    let source = fields
        .require(report, "source")
        .and_then(|node| source(report, node, delivery));
    Some(SecretRef {
        name: name?,
        source: source?,
        at: node.mark.at,
    })
}

fn secret_name(report: &mut Report, node: &Node, delivery: Delivery) -> Option<String> {
    let name = report.text(node, "name")?;
    if let Err((why, hint)) = validate::secret_name(name, delivery) {
        report.error(
            &node.mark,
            format!("secret name {} {why}", quoted(name)),
            hint,
        );
        return None;
    }
    Some(name.to_owned())
}

fn source(report: &mut Report, node: &Node, delivery: Delivery) -> Option<Source> {
    let fields = Fields::open(report, node, &keys::SOURCE)?;
    let given = fields.given();
    let [kind] = given[..] else {
        let one = format!("give one of: {}", keys::SOURCE.keys.join(", "));
        let message = if given.is_empty() {
            "source is empty".to_owned()
        } else {
            format!(
                "source must be exactly one of these, not {}",
                given.join(" and ")
            )
        };
        report.error(&node.mark, message, one);
        return None;
    };
    let value = fields.get(kind)?;
    match kind {
        "secretKeyRef" => secret_key_ref(report, value).map(Source::SecretKeyRef),
        "fileRef" => file_ref(report, value).map(Source::FileRef),
        "envRef" => optional(report, &fields, "envRef", validate::env_ref)
            .ok()?
            .map(Source::EnvRef),
        "value" => inline(report, value, delivery).map(Source::Value),
        _ => vault_ref(report, value).map(Source::VaultRef),
    }
}

fn secret_key_ref(report: &mut Report, node: &Node) -> Option<SecretKeyRef> {
    let fields = Fields::open(report, node, &keys::SECRET_KEY_REF)?;
    let name = required(report, &fields, "name", validate::object_name);
    let key = required(report, &fields, "key", validate::object_key);
    let namespace = optional(report, &fields, "namespace", validate::namespace);
    let optional = fields
        .get("optional")
        .map_or(Some(false), |node| report.boolean(node, "optional"));
    Some(SecretKeyRef {
        name: name?,
        key: key?,
        namespace: namespace.ok()?,
        optional: optional?,
    })
}

fn file_ref(report: &mut Report, node: &Node) -> Option<FileRef> {
    if !matches!(node.kind, Kind::Map(_)) {
        let path = absolute_path(report, node, "fileRef")?;
        return Some(FileRef { path, trim: false });
    }
    let fields = Fields::open(report, node, &keys::FILE_REF)?;
    let path = fields
        .require(report, "path")
        .and_then(|node| absolute_path(report, node, "path"));
    let trim = fields
        .get("trim")
        .map_or(Some(false), |node| report.boolean(node, "trim"));
    Some(FileRef {
        path: path?,
        trim: trim?,
    })
}

fn vault_ref(report: &mut Report, node: &Node) -> Option<VaultRef> {
    let fields = Fields::open(report, node, &keys::VAULT_REF)?;
    let path = required(report, &fields, "path", validate::vault_path);
    let key = required(report, &fields, "key", validate::word);
    Some(VaultRef {
        path: path?,
        key: key?,
    })
}

/// The value itself. It may be empty, and says nothing about itself in a message.
fn inline(report: &mut Report, node: &Node, delivery: Delivery) -> Option<SecretString> {
    let text = match node.scalar() {
        Some(Scalar::Text(text)) => text,
        Some(Scalar::Null) => {
            let hint = "give the secret's text; an empty one is written ''";
            report.error(&node.mark, "value has nothing in it", hint);
            return None;
        }
        _ => {
            let message = format!("value must be text, not {}", node.describe());
            report.error(&node.mark, message, "put it in quotes");
            return None;
        }
    };
    if delivery.env && text.contains('\0') {
        let hint = "deliver it as a file only: `delivery: [file]`";
        report.error(
            &node.mark,
            "value has a NUL byte, which no environment variable can hold",
            hint,
        );
        return None;
    }
    Some(SecretString::from(text))
}
