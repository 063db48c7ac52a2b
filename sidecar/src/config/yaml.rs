//! YAML text as a tree in which every key and value knows where it stands.
//!
//! Built from the parser's events and not through serde, because serde's errors quote values, and
//! because exact texts, quoting and both ends of every scalar are needed to be strict and to keep
//! secrets out of messages. Anchors, aliases and tags are refused: they make a file mean something
//! other than it says, and are usually a secret somebody forgot to quote.

use secrecy::zeroize::Zeroizing;
use serde_saphyr::granit_parser::{
    self, ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput,
};

use super::{error::Position, locate};

/// Collections may be nested this deep; the schema needs 6.
const MAX_DEPTH: usize = 32;

/// What a piece of source text covers: its start, and the last line it touches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) at: Position,
    pub(super) last_line: usize,
    /// Characters to underline on the first line.
    pub(super) width: usize,
}

/// A key or value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `plain`: written without quotes, so that it may be a boolean, a number or nothing.
    Scalar {
        text: Zeroizing<String>,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// What a scalar is by YAML 1.2's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(&'a str),
}

impl Node {
    /// The scalar's meaning, or `None` for a collection.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        let Kind::Scalar { text, plain } = &self.kind else {
            return None;
        };
        let text = text.as_str();
        Some(match text {
            _ if !plain => Scalar::Text(text),
            "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
            "true" | "True" | "TRUE" => Scalar::Bool(true),
            "false" | "False" | "FALSE" => Scalar::Bool(false),
            _ if is_number(text) => Scalar::Number(text),
            _ => Scalar::Text(text),
        })
    }

    /// The scalar's text as it was written, or "" for a collection.
    pub(super) fn raw(&self) -> &str {
        match &self.kind {
            Kind::Scalar { text, .. } => text,
            _ => "",
        }
    }

    /// What it is, in words.
    pub(super) fn describe(&self) -> &'static str {
        match (self.scalar(), &self.kind) {
            (Some(Scalar::Null), _) => "nothing",
            (Some(Scalar::Bool(_)), _) => "a boolean",
            (Some(Scalar::Number(_)), _) => "a number",
            (_, Kind::List(_)) => "a list",
            (_, Kind::Map(_)) => "a mapping",
            (Some(Scalar::Text(_)), _) | (None, Kind::Scalar { .. }) => "text",
        }
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let special = [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"];
    special.contains(&digits)
        || digits.strip_prefix("0x").is_some_and(|hex| u128::from_str_radix(hex, 16).is_ok())
        || digits.strip_prefix("0o").is_some_and(|oct| u128::from_str_radix(oct, 8).is_ok())
        // Rust also reads "inf" and "nan", which YAML does not.
        || digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok()
}

/// Why a text is not a tree. The message never quotes the text.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

impl Problem {
    fn new(mark: Mark, message: &str, hint: &'static str) -> Self {
        Self {
            mark,
            message: message.to_owned(),
            hint,
        }
    }
}

/// Reads exactly one document.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let options = granit_parser::options! {
        // Whether they would come as events depends on features other crates may ask for.
        emit_comments: false,
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder {
        text,
        done: 0,
        before: 0,
        events: Parser::new_from_str_with_options(text, options),
    };
    let mut root = None;
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::DocumentStart(..) if root.is_some() => {
                return Err(Problem::new(
                    mark(&span),
                    "a second document",
                    "the file holds one document: remove `---` and what follows it",
                ));
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {}
            event => root = Some(builder.node(event, &span, 0)?),
        }
    }
    match root {
        Some(node) if node.scalar() != Some(Scalar::Null) => Ok(node),
        _ => Err(Problem::new(
            START,
            "the file is empty",
            "the least it needs is `version: v1`",
        )),
    }
}

/// The first character of the file.
pub(super) const START: Mark = Mark {
    at: Position { line: 1, column: 1 },
    last_line: 1,
    width: 1,
};

struct Builder<'a> {
    text: &'a str,
    /// The byte behind the last event, and behind the one before it.
    done: usize,
    before: usize,
    events: Parser<'a, StrInput<'a>>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Problem> {
        let event = self.events.next_event().transpose().map_err(|error| {
            let (at, message, hint) = explain(self.text, self.done, &error);
            Problem::new(one(at), &message, hint)
        })?;
        self.before = self.done;
        if let Some(range) = event.as_ref().and_then(|(_, span)| span.byte_range()) {
            // (A collection's event may end before what was read already.)
            self.done = range.end.max(self.done);
        }
        Ok(event)
    }

    fn expect(&mut self) -> Result<(Event<'a>, Span), Problem> {
        self.next()?
            .ok_or_else(|| Problem::new(START, "the document ends too early", ""))
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Problem> {
        let mark = mark(span);
        if depth > MAX_DEPTH {
            return Err(Problem::new(
                mark,
                "nested too deeply",
                "no key needs more than a few levels",
            ));
        }
        if event.anchor_id().is_some() || event.tag().is_some() {
            let named = span
                .byte_range()
                .map_or(self.text.len(), |range| range.start);
            let at = locate::property(self.text, self.before, named);
            return Err(not_plain(at.map_or(mark, one)));
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => Kind::Scalar {
                text: Zeroizing::new(text.into_owned()),
                plain: style == ScalarStyle::Plain,
            },
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            _ => return Err(not_plain(mark)),
        };
        Ok(Node { mark, kind })
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Kind::Map(entries));
            }
            let key = self.node(event, &span, depth + 1)?;
            if !matches!(key.kind, Kind::Scalar { .. }) {
                // `mode: {{ .Values.mode }}` is a mapping as a key.
                let is_template = matches!(&key.kind, Kind::Map(_));
                return Err(if is_template {
                    Problem::new(key.mark, locate::TEMPLATE, locate::RENDER)
                } else {
                    Problem::new(key.mark, "a key must be a word", "write `key: value`")
                });
            }
            let (event, span) = self.expect()?;
            let value = self.node(event, &span, depth + 1)?;
            entries.push((key, value));
        }
    }
}

fn not_plain(mark: Mark) -> Problem {
    Problem::new(
        mark,
        "anchors, aliases and tags (`&`, `*`, `!`) are not supported",
        "if this is meant as text, put it in quotes",
    )
}

fn position(marker: &Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

fn mark(span: &Span) -> Mark {
    let (start, end) = (position(&span.start), position(&span.end));
    // A block scalar ends where the next line begins, and does not touch that line.
    let ends_before = usize::from(end.column == 1 && end.line > start.line);
    let last_line = (end.line - ends_before).max(start.line);
    let width = if last_line == start.line {
        end.column.saturating_sub(start.column)
    } else {
        1
    };
    Mark {
        at: start,
        last_line,
        width: width.max(1),
    }
}

/// One character.
fn one(at: Position) -> Mark {
    Mark {
        at,
        last_line: at.line,
        width: 1,
    }
}

/// Where a text stops being YAML, why, and what to do. The message never quotes the text. `done`: the byte up to which
/// it was read before that.
pub(crate) fn explain(
    text: &str,
    done: usize,
    error: &ScanError,
) -> (Position, String, &'static str) {
    if let Some(found) = locate::cause(text, done, error) {
        let message = format!("not valid YAML: {}", found.message);
        return (found.at, message, found.hint);
    }
    let hint = match error.kind() {
        ErrorKind::DirectiveDisallowed => "remove the line that begins with `%`",
        ErrorKind::RecursionLimitExceeded => "no key needs more than a few levels",
        _ => "look for a missing quote, colon or bracket, or wrong indentation, here or just above",
    };
    // These would quote the file, of which we do not know the secret parts.
    let message = match error.kind() {
        ErrorKind::UnexpectedCharacter { .. } => "unexpected character".to_owned(),
        ErrorKind::Custom(_) | ErrorKind::InputIo { .. } | ErrorKind::InputDecoding { .. } => {
            "cannot be read".to_owned()
        }
        kind => kind.to_string(),
    };
    (
        position(error.marker()),
        format!("not valid YAML: {message}"),
        hint,
    )
}
