//! Secret values: where they come from, and how they are kept.

mod environ;
mod sources;
mod value;

pub(crate) use sources::{SourceError, Store};
pub(crate) use value::{Value, protect_process};
