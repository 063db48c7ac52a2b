//! One change to a document, and what it is as a JSON patch.

use json_patch::{
    AddOperation, PatchOperation, RemoveOperation,
    jsonptr::{PointerBuf, Token},
};

use super::sidecar::Piece;

/// A change. All pointers are to the document as it was.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// A key that a mapping lacks, or that holds nothing.
    Entry {
        map: PointerBuf,
        key: String,
        value: Piece,
    },
    /// Items for a list that has some: a piece that is a list.
    Items {
        list: PointerBuf,
        front: bool,
        items: Piece,
    },
    /// Keys that go, with what they hold; at least one stays. All of a mapping's are in one edit.
    RemoveKeys { map: PointerBuf, keys: Vec<String> },
    /// Items that go, by ascending number; at least one stays.
    RemoveItems {
        list: PointerBuf,
        indices: Vec<usize>,
    },
}

impl Edit {
    /// The same, of a document in which what it was made for stands at `prefix`.
    pub(super) fn below(mut self, prefix: &PointerBuf) -> Self {
        let (Self::Entry { map: place, .. }
        | Self::Items { list: place, .. }
        | Self::RemoveKeys { map: place, .. }
        | Self::RemoveItems { list: place, .. }) = &mut self;
        *place = prefix.concat(place);
        self
    }

    /// As operations, to be carried out after those of the edits before this one.
    pub(super) fn operations(&self) -> Vec<PatchOperation> {
        match self {
            Self::Entry { map, key, value } => vec![add(map, key, value.value.clone())],
            Self::Items { list, front, items } => {
                let items = items.value.as_array().cloned().unwrap_or_default();
                let place = if *front { "0" } else { "-" };
                let mut operations: Vec<_> = items
                    .into_iter()
                    .map(|item| add(list, place, item))
                    .collect();
                if *front {
                    operations.reverse();
                }
                operations
            }
            Self::RemoveKeys { map, keys } => keys.iter().map(|key| remove(map, key)).collect(),
            // From the end, so that none moves before it goes.
            Self::RemoveItems { list, indices } => indices
                .iter()
                .rev()
                .map(|index| remove(list, &index.to_string()))
                .collect(),
        }
    }
}

fn add(parent: &PointerBuf, token: &str, value: serde_json::Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: parent.with_trailing_token(Token::new(token)),
        value,
    })
}

fn remove(parent: &PointerBuf, token: &str) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation {
        path: parent.with_trailing_token(Token::new(token)),
    })
}
