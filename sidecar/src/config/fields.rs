//! Takes the tree apart: one mapping at a time, strictly, noting everything that is wrong.

use std::{collections::HashMap, path::Path};

use super::{
    error::ConfigError,
    excerpt::{self, Source},
    keys::{self, Level, Meant},
    locate,
    yaml::{Kind, Mark, Node, Scalar},
};

/// After this many errors the rest are not worth reading.
const MAX_ERRORS: usize = 50;

/// The errors found so far.
#[derive(Debug)]
pub(super) struct Report<'t> {
    file: &'t Path,
    source: Source<'t>,
    errors: Vec<ConfigError>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t Path, source: Source<'t>) -> Self {
        Self {
            file,
            source,
            errors: Vec::new(),
        }
    }

    /// Notes an error. `message` and `hint` must not contain what may be a secret.
    pub(super) fn error(
        &mut self,
        mark: &Mark,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if !self.is_full() {
            let excerpt = self.source.excerpt(mark);
            let error = ConfigError::new(self.file, Some(mark.at), message).excerpt(excerpt);
            let hint = hint.into();
            self.errors.push(if hint.is_empty() {
                error
            } else {
                error.hint(hint)
            });
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }

    fn wrong_type(&mut self, node: &Node, what: &str, expected: &str, hint: &str) {
        let message = format!("{what} must be {expected}, not {}", node.describe());
        self.error(&node.mark, message, hint);
    }

    /// A key as messages show it: with its name, unless that may be a secret.
    fn show(&self, level: &Level, mark: &Mark, key: &str) -> String {
        if self.source.may_name(level, mark, key) {
            format!("key {}", quoted(key))
        } else {
            "key".to_owned()
        }
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        if let Kind::List(items) = &node.kind {
            return Some(items);
        }
        self.wrong_type(node, what, "a list", "begin each item with `- `");
        None
    }

    /// Text, not empty.
    pub(super) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match node.scalar() {
            Some(Scalar::Text("")) => self.error(&node.mark, format!("{what} is empty"), ""),
            Some(Scalar::Text(text)) if locate::is_template(text) => {
                let message = format!("{what} is {}", locate::TEMPLATE);
                self.error(&node.mark, message, locate::RENDER);
            }
            Some(Scalar::Text(text)) => return Some(text),
            Some(Scalar::Bool(_) | Scalar::Number(_)) => {
                self.wrong_type(node, what, "text", "put it in quotes");
            }
            _ => self.wrong_type(node, what, "text", ""),
        }
        None
    }

    /// A boolean, as YAML 1.2 has them.
    pub(super) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        if let Some(Scalar::Bool(value)) = node.scalar() {
            return Some(value);
        }
        self.wrong_type(
            node,
            what,
            "a boolean",
            "write `true` or `false`, without quotes",
        );
        None
    }

    /// A whole number from 0 to `max`, in decimal.
    pub(super) fn number(&mut self, node: &Node, what: &str, max: u32) -> Option<u32> {
        let range = format!("write a whole number from 0 to {max}, without quotes");
        let Some(Scalar::Number(text)) = node.scalar() else {
            self.wrong_type(node, what, "a number", &range);
            return None;
        };
        let decimal = text.bytes().all(|byte| byte.is_ascii_digit());
        let octal = text.len() > 1 && text.starts_with('0');
        let value = text
            .parse()
            .ok()
            .filter(|value| *value <= max && decimal && !octal);
        if value.is_none() {
            self.error(&node.mark, format!("{what} is out of range"), range);
        }
        value
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        // (The words in capitals are signals, which others write `SIGHUP`.)
        let short = text.strip_prefix("SIG").unwrap_or(text);
        let meant = keys::nearest(short, &names);
        let ask = meant.map_or_else(String::new, |word| {
            format!("; did you mean {}?", quoted(word))
        });
        let message = format!("{what} cannot be {}{ask}", quoted(text));
        self.error(
            &node.mark,
            message,
            format!("write one of: {}", names.join(", ")),
        );
        None
    }
}

/// A word from the file as messages show it: in quotes, on one line, not endless.
pub(super) fn quoted(word: &str) -> String {
    let mut shown: String = word.chars().take(80).map(excerpt::printable).collect();
    if word.chars().nth(80).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// The entries of a mapping whose keys have been checked.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    level: &'static Level,
    entries: HashMap<&'n str, &'n Node>,
    /// Keys that are probably meant by others, which are noted: they are not lacking.
    misspelt: Vec<&'static str>,
    pub(super) mark: Mark,
}

impl<'n> Fields<'n> {
    /// Opens a mapping: wrong keys and keys given twice are noted and left out.
    pub(super) fn open(report: &mut Report, node: &'n Node, level: &'static Level) -> Option<Self> {
        let Kind::Map(pairs) = &node.kind else {
            let hint = format!("keys here: {}", level.keys.join(", "));
            report.wrong_type(node, level.name, "a mapping", &hint);
            return None;
        };
        let (mut entries, mut misspelt) = (HashMap::new(), Vec::new());
        let mut seen: HashMap<&str, &Mark> = HashMap::new();
        for (key, value) in pairs {
            let name = key.raw();
            if let Some(first) = seen.get(name) {
                let message = format!(
                    "{} is given twice in {}",
                    report.show(level, &key.mark, name),
                    level.name
                );
                report.error(&key.mark, message, format!("the first is at {}", first.at));
                continue;
            }
            seen.insert(name, &key.mark);
            if level.keys.contains(&name) {
                entries.insert(name, value);
            } else {
                misspelt.extend(unknown_key(report, &key.mark, name, level));
            }
        }
        Some(Self {
            level,
            entries,
            misspelt,
            mark: node.mark,
        })
    }

    /// The value of a key, if it is given.
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(self.level.keys.contains(&key), "{key} is not in the table");
        self.entries.get(key).copied()
    }

    /// The value of a key that must be given.
    pub(super) fn require(&self, report: &mut Report, key: &'static str) -> Option<&'n Node> {
        let value = self.get(key);
        if value.is_none() && !self.misspelt.contains(&key) {
            let message = format!("{} lacks the key \"{key}\"", self.level.name);
            report.error(&self.mark, message, format!("add `{key}:` here"));
        }
        value
    }

    /// The known keys that are given, in the order of the documentation.
    pub(super) fn given(&self) -> Vec<&'static str> {
        self.level
            .keys
            .iter()
            .copied()
            .filter(|key| self.entries.contains_key(key))
            .collect()
    }
}

/// Notes an unknown key. Gives the key of this level that was probably meant.
fn unknown_key(
    report: &mut Report,
    mark: &Mark,
    key: &str,
    level: &'static Level,
) -> Option<&'static str> {
    let known = format!("keys here: {}", level.keys.join(", "));
    let shown = report.show(level, mark, key);
    let meant = level.meant(key);
    let (message, hint) = match meant {
        Meant::Here(near) => {
            let ask = format!(
                "unknown {shown} in {}; did you mean \"{near}\"?",
                level.name
            );
            (ask, known)
        }
        Meant::Under(other) => {
            let place = if other == keys::TOP.name {
                "at".to_owned()
            } else {
                "under".to_owned()
            };
            let colon = if other == keys::TOP.name { "" } else { ":" };
            let message = format!(
                "unknown {shown} in {}; it belongs {place} {other}{colon}",
                level.name
            );
            (message, known)
        }
        Meant::Unknown => (format!("unknown {shown} in {}", level.name), known),
    };
    report.error(mark, message, hint);
    match meant {
        Meant::Here(near) => Some(near),
        _ => None,
    }
}
