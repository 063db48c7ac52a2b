//! Secret values: where they come from, and how they are kept.

mod backends;
mod changes;
mod origins;
mod remote;
mod sources;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use origins::{Known, SecretBackends};
pub(crate) use sources::{SourceError, Store};
pub(crate) use value::{Value, protect_process};
