//! Which source lines an error may show: never one that may hold a secret.
//!
//! A line with a `value:` key is not shown, nor any line of what stands below it. Nor is text
//! where none belongs (under an unknown key, as an item of `secretRefs`), because it may be a
//! secret in the wrong place, nor a comment: there the line is shown up to that. In a file which
//! is not YAML nobody knows what is what, so lines are shown only above the first mention of a
//! secret.

use std::collections::BTreeMap;

use super::{
    error::Excerpt,
    keys::{self, Level, Meant},
    yaml::{Kind, Mark, Node, Scalar},
};

/// Lines are shown up to this many characters.
const MAX_WIDTH: usize = 160;

/// The source lines, and how much of each may be shown.
#[derive(Debug)]
pub(super) struct Source<'t> {
    lines: Vec<&'t str>,
    /// For some line numbers, how many characters may be shown. All of the others.
    limits: BTreeMap<usize, usize>,
    /// The first line number of which nothing is known.
    unknown_from: usize,
    /// The first line number that speaks of an inline value.
    first_value: usize,
}

impl<'t> Source<'t> {
    /// Of a file that is not valid YAML.
    pub(super) fn broken(text: &'t str) -> Self {
        let mut source = Self::new(text);
        source.unknown_from = source.first_mention(&["secret", "value", "source"]);
        source
    }

    /// Of a file that could be read.
    pub(super) fn read(text: &'t str, root: &Node) -> Self {
        let mut source = Self::new(text);
        source.first_value = source.first_mention(&["value"]);
        source.visit(
            root,
            Place {
                level: Some(&keys::TOP),
                text_belongs: false,
                among_secrets: false,
            },
        );
        source
    }

    fn new(text: &'t str) -> Self {
        Self {
            lines: lines(text),
            limits: BTreeMap::new(),
            unknown_from: usize::MAX,
            first_value: usize::MAX,
        }
    }

    fn first_mention(&self, words: &[&str]) -> usize {
        let mentions = |line: &&str| {
            let line = line.to_lowercase();
            words.iter().any(|word| line.contains(word))
        };
        self.lines
            .iter()
            .position(mentions)
            .map_or(usize::MAX, |index| index + 1)
    }

    /// Whether a message may name this key. One that is nothing like ours may be a line of a
    /// secret that slipped out of its place.
    pub(super) fn may_name(&self, level: &Level, mark: &Mark, key: &str) -> bool {
        keys::is_key(key)
            || level.meant(key) != Meant::Unknown
            || !level.hides_keys && mark.at.line < self.first_value
    }

    /// The line of `mark`, with `mark` underlined, if both may be shown.
    pub(super) fn excerpt(&self, mark: &Mark) -> Option<Excerpt> {
        let number = mark.at.line;
        let line = *self.lines.get(number.checked_sub(1)?)?;
        if number >= self.unknown_from || has_value_key(line) {
            return None;
        }
        let limit = self
            .limits
            .get(&number)
            .copied()
            .unwrap_or(usize::MAX)
            .min(comment(line))
            .min(MAX_WIDTH);
        let start = mark.at.column - 1;
        let length = line.chars().count();
        // Nothing to point at, or nothing to show but blanks and dashes.
        if start > limit || limit < length && line.chars().take(limit).all(|c| " -{[".contains(c)) {
            return None;
        }
        let mut shown: String = line.chars().take(limit).map(printable).collect();
        let width = mark.width.min(limit.min(length).saturating_sub(start));
        if limit < length {
            shown.push('…');
        }
        Some(Excerpt {
            line: shown.trim_end().to_owned(),
            start,
            width,
        })
    }

    fn visit(&mut self, node: &Node, place: Place) {
        match &node.kind {
            Kind::Scalar { .. } => {
                let harmless = match node.scalar() {
                    Some(Scalar::Text(_)) | None => false,
                    Some(Scalar::Null) => true,
                    Some(Scalar::Bool(_) | Scalar::Number(_)) => !place.among_secrets,
                };
                if !place.text_belongs && !harmless {
                    self.hide(&node.mark);
                }
            }
            Kind::List(items) => {
                // Of text, only `delivery` and the like are lists.
                let text_belongs = place.text_belongs && !place.among_secrets;
                for item in items {
                    self.visit(
                        item,
                        Place {
                            text_belongs,
                            ..place
                        },
                    );
                }
            }
            Kind::Map(entries) => {
                for (key, value) in entries {
                    self.visit_entry(key, value, place);
                }
            }
        }
    }

    fn visit_entry(&mut self, key: &Node, value: &Node, place: Place) {
        let name = key.raw();
        if name == "value" {
            self.hide_all(key);
            return self.hide_all(value);
        }
        // A token, or a password in an address, where the path or the address of it should be; a command line, which
        // may have one among its arguments, where a file should be.
        let is_credential = match name {
            "binary" => value.raw().contains(char::is_whitespace),
            "tokenFile" => !value.raw().starts_with('/'),
            "address" => value.raw().contains('@'),
            _ => false,
        };
        if is_credential {
            self.hide_all(value);
        }
        let child = place.level.and_then(|level| level.child(name));
        let known_here = place.level.is_some_and(|level| level.keys.contains(&name));
        let among_secrets = place.among_secrets || matches!(name, "secretRefs" | "source");
        let named = match place.level {
            Some(level) => self.may_name(level, &key.mark, name),
            None => place.text_belongs || !among_secrets && key.mark.at.line < self.first_value,
        };
        if !named {
            self.hide(&key.mark);
        }
        // Outside of the secrets, a key of ours at the wrong level is no reason to be secretive.
        let known = if among_secrets {
            known_here
        } else {
            keys::is_key(name) || place.text_belongs
        };
        let text_belongs = known && !keys::holds_more_keys(name);
        self.visit(
            value,
            Place {
                level: child,
                text_belongs,
                among_secrets,
            },
        );
    }

    fn hide_all(&mut self, node: &Node) {
        self.hide(&node.mark);
        match &node.kind {
            Kind::Scalar { .. } => {}
            Kind::List(items) => items.iter().for_each(|item| self.hide_all(item)),
            Kind::Map(entries) => entries.iter().for_each(|(key, value)| {
                self.hide_all(key);
                self.hide_all(value);
            }),
        }
    }

    /// Hides the rest of the line from here, and every further line this touches.
    fn hide(&mut self, mark: &Mark) {
        let mut limit = |line, columns| {
            let limit = self.limits.entry(line).or_insert(columns);
            *limit = columns.min(*limit);
        };
        limit(mark.at.line, mark.at.column - 1);
        // Block scalars begin at their `|`, and the parser may place that on either line.
        (mark.at.line + 1..=mark.last_line).for_each(|line| limit(line, 0));
    }
}

/// Where in the file a node stands, as far as showing it is concerned.
#[derive(Clone, Copy)]
struct Place {
    /// The level of the mapping, while every key so far was in its place.
    level: Option<&'static Level>,
    /// Text is expected here and is no secret.
    text_belongs: bool,
    /// Somewhere below `secretRefs`.
    among_secrets: bool,
}

/// Where a comment may begin, in characters: who comments a secret out leaves it readable.
fn comment(line: &str) -> usize {
    let mut before = ' ';
    let begins = |c| std::mem::replace(&mut before, c).is_whitespace() && c == '#';
    line.chars().position(begins).unwrap_or(usize::MAX)
}

/// Whether a line has a `value:` key, quoted or not, or what may be one.
fn has_value_key(line: &str) -> bool {
    let line = line.to_lowercase();
    line.match_indices("value").any(|(index, word)| {
        let rest = line[index + word.len()..].trim_start_matches(['"', '\'', ' ', '\t']);
        rest.starts_with(':')
    })
}

/// Lines as YAML counts them.
fn lines(text: &str) -> Vec<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n')
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
        .collect()
}

/// A character that takes one column and does nothing to a terminal.
pub(super) fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        // Bidirectional controls can make a line look like another.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}
