//! A YAML stream as trees in which every node knows its place in the text, down to the byte.
//!
//! Not the configuration's reader: manifests come as many documents, with anchors and tags, and are
//! edited where they stand.

use std::{collections::HashMap, ops::Range};

use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{
    self, Event, Marker, Parser, ScalarStyle, Span, StrInput, StructureStyle,
};

use super::{Position, yaml_syntax};

/// Collections may be nested this deep. Schemas inside a CRD are, some sixty levels.
const MAX_DEPTH: usize = 200;

/// A stream may hold this many nodes, aliases counted as what they stand for.
const MAX_NODES: usize = 4_000_000;

/// What is wrong with a key that its mapping has above already.
pub(super) const TWICE: &str = "a key that is there already";

/// A value, or a mapping's key.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Bytes in the text. Of a block collection, its first byte alone: see [`Node::end`].
    pub(super) span: Range<usize>,
    pub(super) at: Position,
    pub(super) kind: Kind,
    /// Written elsewhere: `*name` stands here.
    pub(super) is_alias: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `plain`: without quotes and tags, so that it may be a boolean, a number or nothing.
    Scalar { text: String, plain: bool },
    /// `flow`: in brackets.
    List { flow: bool, items: Vec<Node> },
    /// `flow`: in braces.
    Map {
        flow: bool,
        entries: Vec<(Node, Node)>,
    },
}

/// Why a text is not a stream of trees. The message never quotes the text.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) at: Position,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Reads every document.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Problem> {
    let options = granit_parser::options! {
        // Whether they would come as events depends on features other crates may ask for.
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut reader = Reader {
        text,
        done: 0,
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {
                reader.anchors.clear();
            }
            event => documents.push(reader.node(event, &span)?),
        }
    }
    Ok(documents)
}

impl Node {
    /// The entry of a mapping, by its key.
    pub(super) fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        let Kind::Map { entries, .. } = &self.kind else {
            return None;
        };
        entries.iter().find(|(name, _)| name.is_text(key))
    }

    /// The value under a key, or the item of a number.
    pub(super) fn step(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::List { items, .. } => items.get(key.parse::<usize>().ok()?),
            _ => self.entry(key).map(|(_, value)| value),
        }
    }

    /// Whether it is a scalar of this text.
    pub(super) fn is_text(&self, text: &str) -> bool {
        matches!(&self.kind, Kind::Scalar { text: own, .. } if own == text)
    }

    /// The byte after its last one.
    pub(super) fn end(&self) -> usize {
        if self.is_alias {
            return self.span.end;
        }
        match &self.kind {
            Kind::List { flow: false, items } => items.last().map_or(self.span.end, Node::end),
            Kind::Map {
                flow: false,
                entries,
            } => entries
                .last()
                .map_or(self.span.end, |(key, value)| value.end().max(key.end())),
            _ => self.span.end,
        }
    }

    /// As JSON, in which of two equal keys the last one counts, as it does for Kubernetes.
    pub(super) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar { text, plain: true } => plain(text),
            Kind::Scalar { text, plain: false } => Value::String(text.clone()),
            Kind::List { items, .. } => items.iter().map(Node::to_json).collect(),
            Kind::Map { entries, .. } => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.key_text(), value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    fn key_text(&self) -> String {
        match &self.kind {
            Kind::Scalar { text, .. } => text.clone(),
            _ => self.to_json().to_string(),
        }
    }

    /// A key below here that has no one meaning: there twice, a merge (`<<`), or a collection.
    pub(super) fn ambiguous_key(&self) -> Option<(&Node, &'static str)> {
        match &self.kind {
            Kind::Scalar { .. } => None,
            Kind::List { items, .. } => items.iter().find_map(Node::ambiguous_key),
            Kind::Map { entries, .. } => {
                let mut seen = std::collections::HashSet::new();
                entries.iter().find_map(|(key, value)| {
                    if matches!(&key.kind, Kind::Scalar { text, plain: true } if text == "<<") {
                        return Some((key, "a merge key (`<<`)"));
                    }
                    if !matches!(key.kind, Kind::Scalar { .. }) {
                        // `name: {{ .Values.name }}` is one to YAML.
                        return Some((key, "a mapping or list as a key"));
                    }
                    if !seen.insert(key.key_text()) {
                        return Some((key, TWICE));
                    }
                    value.ambiguous_key()
                })
            }
        }
    }
}

/// What an unquoted scalar is. A number that JSON writes otherwise stays text: all that counts here
/// is that equal texts are equal.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => serde_json::from_str::<Number>(text)
            .map_or_else(|_| Value::String(text.to_owned()), Value::Number),
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The byte behind what was read.
    done: usize,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Problem> {
        let event = self.events.next_event().transpose().map_err(|error| {
            let (at, message, help) = yaml_syntax(self.text, self.done, &error);
            Problem { at, message, help }
        })?;
        if let Some(range) = event.as_ref().and_then(|(_, span)| span.byte_range()) {
            self.done = range.end.max(self.done);
        }
        Ok(event)
    }

    fn expect(&mut self, after: &Span) -> Result<(Event<'a>, Span), Problem> {
        self.next()?
            .ok_or_else(|| problem(after, "the document ends too early", ""))
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Problem> {
        self.nodes += 1;
        let anchor = event.anchor_id();
        let is_text = event
            .tag()
            .is_some_and(|tag| tag.core_suffix() == Some("str"));
        let mut range = bytes(span)?;
        let kind = match event {
            Event::Scalar(text, style, ..) => Kind::Scalar {
                text: text.into_owned(),
                plain: style == ScalarStyle::Plain && !is_text,
            },
            Event::SequenceStart(style, ..) => {
                let flow = style == StructureStyle::Flow;
                let (items, end) = self.list(span)?;
                range.end = if flow { end } else { range.end };
                Kind::List { flow, items }
            }
            Event::MappingStart(style, ..) => {
                let flow = style == StructureStyle::Flow;
                let (entries, end) = self.map(span)?;
                range.end = if flow { end } else { range.end };
                Kind::Map { flow, entries }
            }
            Event::Alias(id) => return self.alias(id, span),
            _ => return Err(problem(span, "unexpected here", "")),
        };
        let node = Node {
            span: range,
            at: position(&span.start),
            kind,
            is_alias: false,
        };
        if let Some(id) = anchor {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, start: &Span) -> Result<(Vec<Node>, usize), Problem> {
        let mut items = Vec::new();
        loop {
            match self.expect(start)? {
                (Event::SequenceEnd, span) => return Ok((items, bytes(&span)?.end)),
                (event, span) => items.push(self.node(event, &span)?),
            }
        }
    }

    fn map(&mut self, start: &Span) -> Result<(Vec<(Node, Node)>, usize), Problem> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.expect(start)?;
            if matches!(event, Event::MappingEnd) {
                return Ok((entries, bytes(&span)?.end));
            }
            let key = self.node(event, &span)?;
            let (event, span) = self.expect(start)?;
            let value = self.node(event, &span)?;
            entries.push((key, value));
        }
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Node, Problem> {
        let Some(target) = self.anchors.get(&id) else {
            let help = "write out what it stands for";
            return Err(problem(span, "an alias inside what it stands for", help));
        };
        self.nodes += count(target);
        if self.nodes > MAX_NODES {
            let help = "write out what the aliases stand for";
            return Err(problem(span, "too many nodes", help));
        }
        Ok(Node {
            span: bytes(span)?,
            at: position(&span.start),
            kind: target.kind.clone(),
            is_alias: true,
        })
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::Scalar { .. } => 0,
        Kind::List { items, .. } => items.iter().map(count).sum(),
        Kind::Map { entries, .. } => entries.iter().map(|(k, v)| count(k) + count(v)).sum(),
    }
}

fn bytes(span: &Span) -> Result<Range<usize>, Problem> {
    span.byte_range()
        .ok_or_else(|| problem(span, "its place in the text is not known", ""))
}

fn problem(span: &Span, message: &str, help: &'static str) -> Problem {
    Problem {
        at: position(&span.start),
        message: message.to_owned(),
        help,
    }
}

fn position(marker: &Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}
