//! Edits carried out in the text itself, so that comments, order and style stay as they are.
//!
//! What is in block style gets lines, as indented as those around them; what is in brackets or braces
//! (JSON, too) gets JSON. Whoever calls this reads the result again and compares: here is where a fault
//! would be a changed meaning.

mod cut;

use json_patch::jsonptr::PointerBuf;
use serde_json::Value;

use super::{
    Position,
    edit::Edit,
    sidecar::Piece,
    tree::{Kind, Node},
};

/// Keys that are put above the containers, where a reader looks for them. Others go to the end.
const ABOVE_CONTAINERS: [&str; 2] = ["shareProcessNamespace", "initContainers"];

/// How far a mapping below a key is indented.
const STEP: usize = 2;

/// Some bytes of the text, and what comes in their place.
#[derive(Debug)]
pub(super) struct Change {
    at: usize,
    /// Belongs to what comes after the place, not to what ends there.
    leads: bool,
    remove: usize,
    text: String,
}

/// Why an edit cannot be made.
pub(super) type Obstacle = (Position, &'static str);

/// Carries out changes that do not overlap. At the same place, what is added to the end of something comes
/// before what is put above the next thing, and otherwise the earlier one first.
pub(super) fn apply(source: &str, mut changes: Vec<Change>) -> String {
    changes.sort_by_key(|change| (change.at, change.leads));
    let mut text = String::with_capacity(source.len() + 4096);
    let mut done = 0;
    for change in changes {
        text.push_str(&source[done..change.at]);
        text.push_str(&change.text);
        done = change.at + change.remove;
    }
    text.push_str(&source[done..]);
    text
}

/// The source of one or more documents. Its last line ends in a line break.
#[derive(Clone, Copy)]
pub(super) struct Source<'a>(pub(super) &'a str);

impl Source<'_> {
    /// An edit of a document. `dashes`: how far its lists are indented below their keys.
    pub(super) fn change(
        self,
        document: &Node,
        edit: &Edit,
        dashes: usize,
    ) -> Result<Vec<Change>, Obstacle> {
        match edit {
            Edit::Entry { map, key, value } => {
                let map = find(document, map)?;
                match map.entry(key) {
                    Some((key, there)) => self.fill(map, key, there, value, dashes),
                    None => self
                        .entry(map, key, value, dashes)
                        .map(|change| vec![change]),
                }
            }
            Edit::Items { list, front, items } => {
                let list = find(document, list)?;
                self.items(list, *front, items).map(|change| vec![change])
            }
            Edit::RemoveKeys { map, keys } => self.without_keys(find(document, map)?, keys),
            Edit::RemoveItems { list, indices } => {
                self.without_items(find(document, list)?, indices)
            }
        }
    }

    /// A key that a mapping lacks.
    fn entry(
        self,
        map: &Node,
        key: &str,
        value: &Piece,
        dashes: usize,
    ) -> Result<Change, Obstacle> {
        let Kind::Map { flow, entries } = &map.kind else {
            return Err((map.at, "not a mapping"));
        };
        if *flow {
            let entry = format!("{}: {}", Value::from(key), value.value);
            return Ok(match entries.last() {
                Some((key, value)) => insert(value.end().max(key.end()), format!(", {entry}")),
                None => insert(map.span.start + 1, entry),
            });
        }
        let Some(((first, _), (last_key, last))) = entries.first().zip(entries.last()) else {
            return Err((map.at, "not a mapping"));
        };
        let column = first.at.column - 1;
        let lines = indented(&format!("{key}:{}", below(value, dashes)), column);
        let above = map
            .entry("containers")
            .filter(|_| ABOVE_CONTAINERS.contains(&key));
        let lines = self.lines(&lines);
        Ok(match above {
            Some((containers, _)) => lead(self.above(containers.span.start, column)?, lines),
            None => insert(self.after(last_key.end().max(last.end())), lines),
        })
    }

    /// A key that is there and holds nothing: `null`, `[]`, `{}`, or no value.
    fn fill(
        self,
        map: &Node,
        key: &Node,
        there: &Node,
        value: &Piece,
        dashes: usize,
    ) -> Result<Vec<Change>, Obstacle> {
        let is_empty = match &there.kind {
            Kind::Scalar { .. } => there.to_json().is_null(),
            Kind::List { flow, items } => *flow && items.is_empty(),
            Kind::Map { flow, entries } => *flow && entries.is_empty(),
        };
        if !is_empty || there.is_alias {
            return Err((there.at, "this has a value"));
        }
        let is_written = there.span.end > there.span.start;
        let Kind::Map { flow: false, .. } = map.kind else {
            if !is_written {
                return Err((key.at, "a key without a value"));
            }
            return Ok(vec![replace(there, value.value.to_string())]);
        };
        if is_written && !is_collection(value) {
            return Ok(vec![replace(there, value.text.clone())]);
        }
        if !is_collection(value) {
            let colon = self.0[key.end()..]
                .find(':')
                .ok_or((key.at, "a key without a colon"))?;
            return Ok(vec![insert(
                key.end() + colon + 1,
                format!(" {}", value.text),
            )]);
        }
        let lines = below(value, dashes);
        let lines = indented(lines.trim_start_matches('\n'), key.at.column - 1);
        let mut changes = Vec::new();
        if is_written {
            // With the blank before it, so that none is left at the line's end.
            let blanks = self.0[..there.span.start].len()
                - self.0[..there.span.start].trim_end_matches(' ').len();
            changes.push(Change {
                at: there.span.start - blanks,
                leads: false,
                remove: there.span.end - there.span.start + blanks,
                text: String::new(),
            });
        }
        changes.push(insert(
            self.after(key.end().max(there.span.end)),
            self.lines(&lines),
        ));
        Ok(changes)
    }

    fn items(self, list: &Node, front: bool, added: &Piece) -> Result<Change, Obstacle> {
        let Kind::List { flow, items: there } = &list.kind else {
            return Err((list.at, "not a list"));
        };
        let Some((head, tail)) = there.first().zip(there.last()) else {
            return Err((list.at, "a list without items"));
        };
        if *flow {
            let json: Vec<_> = added
                .value
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect();
            let json = json.join(", ");
            return Ok(if front {
                insert(list.span.start + 1, format!("{json}, "))
            } else {
                insert(tail.end(), format!(", {json}"))
            });
        }
        let dash = self.dash(head)?;
        let column = dash - self.line_start(dash);
        let lines = self.lines(&indented(&added.text, column));
        Ok(if front {
            lead(self.above(dash, column)?, lines)
        } else {
            insert(self.after(tail.end()), lines)
        })
    }

    /// The column, from 0, of the dash before a list's item.
    pub(super) fn column_of_dash(self, item: &Node) -> Option<usize> {
        let dash = self.dash(item).ok()?;
        Some(dash - self.line_start(dash))
    }

    /// The byte of the dash before a list's item.
    fn dash(self, item: &Node) -> Result<usize, Obstacle> {
        // Up from the item's own line: between it and its dash are at most comments and blank lines.
        let mut end = item.span.start;
        loop {
            let start = self.line_start(end);
            let line = &self.0[start..end];
            let content = line.trim_start();
            if content.starts_with('-') {
                return Ok(end - content.len());
            }
            if start == 0
                || !(content.trim_end().is_empty() || content.starts_with(['#', '&', '!']))
            {
                return Err((item.at, "an item without a dash"));
            }
            end = start - 1;
        }
    }

    /// Where lines go that come above a line and the comments that belong to it.
    fn above(self, byte: usize, column: usize) -> Result<usize, Obstacle> {
        let mut start = self.line_start(byte);
        if self.0[start..byte].contains(|c| c != ' ') {
            let line = self.0[..byte].matches('\n').count() + 1;
            return Err((
                Position {
                    line,
                    column: column + 1,
                },
                "something stands before it on its line",
            ));
        }
        while start > 0 {
            let previous = self.line_start(start - 1);
            let line = &self.0[previous..start];
            // As far in as the line itself: a comment further in, or what looks like one, is the value's above.
            if line.len() - line.trim_start_matches(' ').len() != column
                || !line[column..].starts_with('#')
            {
                break;
            }
            start = previous;
        }
        Ok(start)
    }

    /// The start of the line after what ends at a byte. A block scalar ends in the indentation of the line
    /// after it, which is that line.
    fn after(self, byte: usize) -> usize {
        let start = self.line_start(byte);
        if start > 0 && self.0[start..byte].trim_start().is_empty() {
            return start;
        }
        self.0[byte..]
            .find('\n')
            .map_or(self.0.len(), |line| byte + line + 1)
    }

    fn line_start(self, byte: usize) -> usize {
        self.0[..byte].rfind('\n').map_or(0, |at| at + 1)
    }

    /// Whole lines, with the source's line breaks.
    fn lines(self, text: &str) -> String {
        let crlf = self
            .0
            .find('\n')
            .is_some_and(|at| self.0[..at].ends_with('\r'));
        let end = if crlf { "\r\n" } else { "\n" };
        text.lines().flat_map(|line| [line, end]).collect()
    }
}

/// What stands at a pointer, if it stands there itself.
fn find<'a>(document: &'a Node, pointer: &PointerBuf) -> Result<&'a Node, Obstacle> {
    let mut node = document;
    for token in pointer {
        if node.is_alias {
            break;
        }
        node = node
            .step(&token.decoded())
            .ok_or((node.at, "something is missing here"))?;
    }
    if node.is_alias {
        return Err((
            node.at,
            "an alias: what it stands for is somebody else's, too",
        ));
    }
    Ok(node)
}

fn is_collection(piece: &Piece) -> bool {
    piece.value.is_array() || piece.value.is_object()
}

/// A value as it follows its key and colon.
fn below(value: &Piece, dashes: usize) -> String {
    match &value.value {
        Value::Array(_) => format!("\n{}", indented(&value.text, dashes)),
        Value::Object(_) => format!("\n{}", indented(&value.text, STEP)),
        _ => format!(" {}", value.text),
    }
}

fn indented(text: &str, by: usize) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect();
    lines.join("\n")
}

fn insert(at: usize, text: String) -> Change {
    Change {
        at,
        leads: false,
        remove: 0,
        text,
    }
}

fn lead(at: usize, text: String) -> Change {
    let leads = true;
    Change {
        leads,
        ..insert(at, text)
    }
}

fn replace(node: &Node, text: String) -> Change {
    Change {
        at: node.span.start,
        leads: false,
        remove: node.span.end - node.span.start,
        text,
    }
}
