//! Keys and items that are taken out of the text. The comments above them stay.

use std::ops::Range;

use super::{
    super::tree::{Kind, Node},
    Change, Obstacle, Source,
};

impl Source<'_> {
    /// Keys of a mapping, with what they hold, of which at least one stays.
    pub(super) fn without_keys(self, map: &Node, keys: &[String]) -> Result<Vec<Change>, Obstacle> {
        let Kind::Map { flow, entries } = &map.kind else {
            return Err((map.at, "not a mapping"));
        };
        let goes = |key: &Node| keys.iter().any(|going| key.is_text(going));
        if *flow {
            let spans = entries
                .iter()
                .map(|(key, value)| (key.span.start..value.end().max(key.end()), goes(key)));
            return Ok(between_brackets(&spans.collect::<Vec<_>>()));
        }
        let mut changes = Vec::new();
        for (index, (key, value)) in entries.iter().enumerate() {
            if !goes(key) {
                continue;
            }
            let start = self.line_start(key.span.start);
            if self.is_blank(start..key.span.start) {
                changes.push(cut(start..self.after(value.end().max(key.end()))));
                continue;
            }
            // Behind a dash: the key after it takes its place.
            let next = entries.get(index + 1).filter(|(next, _)| !goes(next));
            let (next, _) = next.ok_or((key.at, "a key behind a dash"))?;
            changes.push(cut(key.span.start..next.span.start));
        }
        Ok(changes)
    }

    /// Items of a list, by ascending number, of which at least one stays.
    pub(super) fn without_items(
        self,
        list: &Node,
        indices: &[usize],
    ) -> Result<Vec<Change>, Obstacle> {
        let Kind::List { flow, items } = &list.kind else {
            return Err((list.at, "not a list"));
        };
        if *flow {
            let spans = items.iter().enumerate();
            let spans =
                spans.map(|(index, item)| (item.span.start..item.end(), indices.contains(&index)));
            return Ok(between_brackets(&spans.collect::<Vec<_>>()));
        }
        let going = indices.iter().filter_map(|index| items.get(*index));
        going
            .map(|item| {
                let dash = self.dash(item)?;
                let start = self.line_start(dash);
                if !self.is_blank(start..dash) {
                    return Err((item.at, "something stands before it on its line"));
                }
                Ok(cut(start..self.after(item.end())))
            })
            .collect()
    }

    fn is_blank(self, range: Range<usize>) -> bool {
        self.0[range].trim_start_matches(' ').is_empty()
    }
}

/// Parts between brackets or braces, and which of them go: each with the comma behind it; those at the end with
/// the comma before them.
fn between_brackets(parts: &[(Range<usize>, bool)]) -> Vec<Change> {
    let Some(last_kept) = parts.iter().rposition(|(_, goes)| !goes) else {
        return Vec::new();
    };
    let inner = parts
        .windows(2)
        .take(last_kept)
        .filter_map(|pair| match pair {
            [(going, true), (next, _)] => Some(cut(going.start..next.start)),
            _ => None,
        });
    let mut changes: Vec<_> = inner.collect();
    if let (Some((kept, _)), Some((tail, true))) = (parts.get(last_kept), parts.last()) {
        changes.push(cut(kept.end..tail.end));
    }
    changes
}

fn cut(range: Range<usize>) -> Change {
    Change {
        at: range.start,
        leads: false,
        remove: range.end - range.start,
        text: String::new(),
    }
}
