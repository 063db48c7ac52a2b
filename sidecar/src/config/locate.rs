//! Where the fault is in a text that is no plain YAML. The parser says where it noticed: for a quote that is not closed or
//! a tab that may be lines further on, for an anchor at what it names.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::error::Position;

/// How a template engine begins what it replaces.
const TEMPLATES: [&str; 3] = ["{{", "{%", "${"];

/// A fault that is found by looking at the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: Position,
    pub(super) message: &'static str,
    pub(super) hint: &'static str,
}

/// What a template that was not rendered is told as.
pub(super) const TEMPLATE: &str = "a template that was not rendered";
/// What to do about one.
pub(super) const RENDER: &str =
    "render it first (`helm template`, `envsubst`), and validate the result";

/// The cause of an error, if the text shows one. `done`: the byte up to which the text was read without it.
pub(super) fn cause(text: &str, done: usize, error: &ScanError) -> Option<Found> {
    let noticed = offset(text, error.marker().line(), error.marker().col());
    let is_tab = matches!(
        error.kind(),
        ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabInPlainScalar
    );
    if is_tab {
        let line = text[..noticed].rfind('\n').map_or(0, |at| at + 1);
        let tab = line + text[line..].find('\t')?;
        return Some(Found {
            at: position(text, tab),
            message: "a tab, which YAML does not take for indentation",
            hint: "indent with spaces",
        });
    }
    let line_start = text[..noticed].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[noticed..]
        .find('\n')
        .map_or(text.len(), |at| noticed + at);
    if let Some(found) = TEMPLATES
        .iter()
        .find_map(|mark| text[line_start..line_end].find(mark))
    {
        return Some(Found {
            at: position(text, line_start + found),
            message: TEMPLATE,
            hint: RENDER,
        });
    }
    let quote = unclosed_quote(text, done.min(noticed), noticed)?;
    Some(Found {
        at: position(text, quote),
        message: "this quote is not closed on its line",
        hint: "close it; write text of several lines with `|`",
    })
}

/// Where a property (`&anchor`, `!tag`) of a node begins that was found between two bytes.
pub(super) fn property(text: &str, from: usize, to: usize) -> Option<Position> {
    let part = text.get(from..to)?;
    let mut before = ' ';
    let mut in_comment = false;
    for (index, c) in part.char_indices() {
        match c {
            '\n' => in_comment = false,
            '#' if before.is_whitespace() => in_comment = true,
            '&' | '!' if !in_comment && opens(before) => return Some(position(text, from + index)),
            _ => {}
        }
        before = c;
    }
    None
}

/// Whether a text that is meant as a name or path is a template's.
pub(super) fn is_template(text: &str) -> bool {
    TEMPLATES.iter().any(|mark| text.contains(mark))
}

/// The first quote from one byte to another that opens a scalar and is not closed on its line.
fn unclosed_quote(text: &str, from: usize, to: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = from;
    let mut before = from
        .checked_sub(1)
        .and_then(|at| bytes.get(at))
        .copied()
        .unwrap_or(b' ');
    while at <= to {
        let byte = *bytes.get(at)?;
        match byte {
            b'#' if before.is_ascii_whitespace() => {
                at += text[at..].find('\n')?;
                continue;
            }
            b'"' | b'\'' if before.is_ascii() && opens(char::from(before)) => {
                match closing(bytes, at) {
                    Some(end) => at = end,
                    None => return Some(at),
                }
            }
            _ => {}
        }
        before = *bytes.get(at)?;
        at += 1;
    }
    None
}

/// The quote that closes one, on the same line.
fn closing(bytes: &[u8], open: usize) -> Option<usize> {
    let quote = bytes[open];
    let mut at = open + 1;
    loop {
        match *bytes.get(at)? {
            b'\n' => return None,
            b'\\' if quote == b'"' => at += 1,
            byte if byte == quote => {
                // (`''` in single quotes is one of them)
                if quote == b'\'' && bytes.get(at + 1) == Some(&quote) {
                    at += 1;
                } else {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Whether a value may begin behind this.
fn opens(before: char) -> bool {
    before.is_whitespace() || "[{,:-".contains(before)
}

/// The byte at a line, from 1, and a column, from 0.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = &text[start..];
    start
        + rest
            .char_indices()
            .nth(column)
            .map_or(rest.len(), |(at, _)| at)
}

fn position(text: &str, byte: usize) -> Position {
    let before = text.get(..byte).unwrap_or_default();
    Position {
        line: before.matches('\n').count() + 1,
        column: before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1,
    }
}
