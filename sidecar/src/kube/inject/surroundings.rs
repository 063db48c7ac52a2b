//! What else is in the same stream, as far as it says something about a pod: its namespace's level of Pod
//! Security, its runtime class, and the Secrets that its configuration names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::tree::{self, Node};

/// On a Namespace: which pods it admits.
const ENFORCED_LEVEL: &str = "pod-security.kubernetes.io/enforce";
/// The key of a `ConfigMap` that the sidecar reads.
const CONFIG_KEY: &str = "config.yaml";

/// What is known beside a pod. The webhook, which sees one pod alone, knows nothing.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    levels: BTreeMap<String, String>,
    handlers: BTreeMap<String, String>,
    /// By the name of a `ConfigMap`.
    secrets: BTreeMap<String, BTreeSet<String>>,
}

impl Surroundings {
    /// Adds what a text of YAML or JSON documents holds. One that cannot be read adds nothing: who injects
    /// into it is told why.
    pub(super) fn learn(&mut self, text: &str) {
        let documents = tree::read(text).unwrap_or_default();
        for document in documents.iter().map(Node::to_json) {
            self.object(&document);
        }
    }

    /// The level a namespace enforces, if it does not admit the sidecar: `baseline` or `restricted`.
    pub(super) fn forbidding_level(&self, namespace: &str) -> Option<&str> {
        let level = self.levels.get(namespace)?;
        ["baseline", "restricted"]
            .into_iter()
            .find(|one| one == level)
    }

    /// What runs pods of a runtime class: its handler where the class is in the stream, otherwise its name.
    pub(super) fn handler<'a>(&'a self, class: &'a str) -> &'a str {
        self.handlers.get(class).map_or(class, String::as_str)
    }

    /// The Secrets that the configuration in a `ConfigMap` names; `None` where it is not in the stream.
    pub(super) fn secrets_of(&self, config_map: &str) -> Option<&BTreeSet<String>> {
        self.secrets.get(config_map)
    }

    fn object(&mut self, object: &Value) {
        for item in object["items"].as_array().into_iter().flatten() {
            self.object(item);
        }
        let Some(name) = object["metadata"]["name"].as_str() else {
            return;
        };
        let known = match object["kind"].as_str() {
            Some("Namespace") => (
                &mut self.levels,
                &object["metadata"]["labels"][ENFORCED_LEVEL],
            ),
            Some("RuntimeClass") => (&mut self.handlers, &object["handler"]),
            Some("ConfigMap") => {
                if let Some(config) = object["data"][CONFIG_KEY].as_str() {
                    let named = self.secrets.entry(name.to_owned()).or_default();
                    for document in tree::read(config).unwrap_or_default() {
                        secret_names(&document.to_json(), named);
                    }
                }
                return;
            }
            _ => return,
        };
        if let (map, Some(text)) = (known.0, known.1.as_str()) {
            map.insert(name.to_owned(), text.to_owned());
        }
    }
}

fn secret_names(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| secret_names(item, names)),
        Value::Object(entries) => {
            if let Some(name) = value["secretKeyRef"]["name"].as_str() {
                names.insert(name.to_owned());
            }
            entries
                .values()
                .for_each(|value| secret_names(value, names));
        }
        _ => {}
    }
}
