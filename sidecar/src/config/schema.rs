//! The JSON Schema of the configuration, for editors and for `kubectl`-like tools.
//!
//! Most of it follows from the [`super::model`] types; what YAML writes differently from how Rust
//! holds it is spelled out here. The schema says less than [`super::parse`] checks, never more.

use std::{borrow::Cow, time::Duration};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema,
    transform::RecursiveTransform,
};
use serde_json::Value;

use super::{
    binding::{Delivery, FileMode, FileRef, OnRotate, Provenance, RotateSignal},
    model::Config,
};
use serde::{Serialize, Serializer, ser::SerializeSeq};

/// The JSON Schema (draft 2020-12) of `config.yaml`.
#[must_use]
pub fn json_schema() -> Value {
    SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(refuse_null))
        .into_generator()
        .into_root_schema_for::<Config>()
        .to_value()
}

/// What is optional may be left out, but not be `null`, except where the default is nothing.
fn refuse_null(schema: &mut Schema) {
    let empty_is_fine = schema.remove(NULL_IS_EMPTY).is_some();
    if let Some(Value::Array(types)) = schema.get_mut("type")
        && !empty_is_fine
    {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
}

/// Marks a schema in which `null` means "empty", as when every item of a list is commented out.
pub(super) const NULL_IS_EMPTY: &str = "x-null-is-empty";

/// A duration as the file writes it, in the largest unit that is exact: `500ms`, `5s`, `1m`.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

impl Serialize for Delivery {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(None)?;
        for (wanted, name) in [(self.env, "env"), (self.file, "file")] {
            if wanted {
                list.serialize_element(name)?;
            }
        }
        list.end()
    }
}

impl JsonSchema for Delivery {
    fn schema_name() -> Cow<'static, str> {
        "Delivery".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": {"type": "string", "enum": ["env", "file"]},
            "minItems": 1,
            "uniqueItems": true,
        })
    }
}

/// What is one of some words.
macro_rules! words {
    ($($kind:ident),+) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let name = Self::NAMES.iter().find(|(_, other)| other == self);
                to.serialize_str(name.map_or("", |(name, _)| name))
            }
        }

        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "enum": Self::NAMES.map(|(name, _)| name)})
            }
        }
    )+};
}
words!(FileMode, Provenance);

impl Serialize for OnRotate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_str("none"),
            Self::Restart => to.serialize_str("restart"),
            Self::Signal(signal) => {
                let mut names = RotateSignal::NAMES.iter();
                let name = names
                    .find(|(_, other)| other == signal)
                    .map(|(name, _)| name);
                to.collect_map([("signal", name)])
            }
        }
    }
}

impl JsonSchema for OnRotate {
    fn schema_name() -> Cow<'static, str> {
        "OnRotate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let signals = RotateSignal::NAMES.map(|(name, _)| name);
        json_schema!({
            "oneOf": [
                {"type": "string", "enum": ["none", "restart"]},
                {
                    "type": "object",
                    "properties": {"signal": {"type": "string", "enum": signals}},
                    "required": ["signal"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl JsonSchema for FileRef {
    fn schema_name() -> Cow<'static, str> {
        "FileRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = |description| json_schema!({"type": "string", "pattern": "^/", "description": description});
        json_schema!({
            "description": "A file as a source: its path, or a mapping that can also ask for trimming.",
            "oneOf": [
                path("An absolute path, as kernelseal sees it."),
                {
                    "type": "object",
                    "properties": {
                        "path": path("An absolute path, as kernelseal sees it."),
                        "trim": {
                            "type": "boolean",
                            "default": false,
                            "description": "Leave out trailing newlines.",
                        },
                    },
                    "required": ["path"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}
