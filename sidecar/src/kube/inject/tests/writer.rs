//! Writes a value as YAML in a style that chance decides: block or flow, indentation, quotes, comments.

#![expect(
    clippy::format_push_string,
    reason = "a test's writer, read more than run"
)]

use serde_json::Value;

/// Chance, used up as it is asked; nothing left is always 0.
pub(super) struct Chance<'a>(pub(super) &'a [u8]);

impl Chance<'_> {
    fn of(&mut self, one_in: u8) -> bool {
        let Some((first, rest)) = self.0.split_first() else {
            return false;
        };
        self.0 = rest;
        first % one_in == 0
    }
}

/// A document, without `---`.
pub(super) fn write(value: &Value, chance: &mut Chance) -> String {
    let mut text = String::new();
    if chance.of(8) {
        text = format!("{value}\n");
    } else {
        block(value, 0, chance, &mut text);
    }
    if chance.of(6) {
        text = text.replace('\n', "\r\n");
    }
    text
}

/// A mapping or list in lines, the first of which begins at the column.
fn block(value: &Value, column: usize, chance: &mut Chance, text: &mut String) {
    let pad = " ".repeat(column);
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if chance.of(2) {
                entries.reverse();
            }
            for (key, value) in entries {
                if chance.of(6) {
                    *text += &format!("{pad}# about {key}\n");
                }
                *text += &format!("{pad}{}:", scalar(&Value::from(key.as_str()), chance));
                below(value, column, chance, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                if chance.of(8) {
                    *text += &format!("{pad}# an item\n\n");
                }
                let wide = if chance.of(4) { 4 } else { 2 };
                if chance.of(6) {
                    *text += &format!("{pad}-  # below\n");
                    *text += &body(item, column + wide, chance);
                } else {
                    let lines = body(item, column + wide, chance);
                    // Comments before the first key would hide the dash: those stay out.
                    let lines = lines.trim_start_matches(|c| c != '\n' && c == ' ');
                    if lines.starts_with('#') {
                        *text += &format!("{pad}-\n{}{lines}", " ".repeat(column + wide));
                    } else {
                        *text += &format!("{pad}-{}{lines}", " ".repeat(wide - 1));
                    }
                }
            }
        }
        other => *text += &format!("{pad}{}\n", scalar(other, chance)),
    }
}

fn body(item: &Value, column: usize, chance: &mut Chance) -> String {
    let mut text = String::new();
    if is_empty(item) || chance.of(8) {
        text = format!("{}{item}\n", " ".repeat(column));
    } else {
        block(item, column, chance, &mut text);
    }
    text
}

/// What follows a key's colon.
fn below(value: &Value, column: usize, chance: &mut Chance, text: &mut String) {
    let comment = if chance.of(6) { "  # so" } else { "" };
    match value {
        _ if is_empty(value) || chance.of(10) => *text += &format!(" {value}{comment}\n"),
        Value::Object(_) => {
            *text += &format!("{comment}\n");
            let step = if chance.of(4) { 4 } else { 2 };
            block(value, column + step, chance, text);
        }
        Value::Array(_) => {
            *text += &format!("{comment}\n");
            let step = if chance.of(2) { 0 } else { 2 };
            block(value, column + step, chance, text);
        }
        Value::String(lines) if lines.contains('\n') => {
            let pad = " ".repeat(column + 2);
            let mark = if lines.ends_with("\n\n") {
                "|+"
            } else if lines.ends_with('\n') {
                "|"
            } else {
                "|-"
            };
            *text += &format!(" {mark}{comment}\n");
            for line in lines.split_terminator('\n') {
                *text += &if line.is_empty() {
                    "\n".to_owned()
                } else {
                    format!("{pad}{line}\n")
                };
            }
        }
        Value::Null if chance.of(2) => *text += &format!("{comment}\n"),
        other => *text += &format!(" {}{comment}\n", scalar(other, chance)),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn scalar(value: &Value, chance: &mut Chance) -> String {
    match value {
        Value::String(text)
            if text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_uppercase())
                && text.len() > 2
                && !["true", "null", "false"].contains(&text.as_str())
                && !chance.of(3) =>
        {
            text.clone()
        }
        other => other.to_string(),
    }
}
