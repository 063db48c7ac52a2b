//! Secret values: where they come from, and how they are kept.

mod changes;
mod environ;
mod file;
mod origins;
mod remote;
mod sources;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use file::read as read_file;
pub(crate) use origins::{Known, Origins};
pub(crate) use sources::{SourceError, Store};
pub(crate) use value::{Value, protect_process};
