//! Secret values: where they come from, and how they are kept.

mod backends;
mod cache;
mod changes;
mod secret_backends;
mod store;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use secret_backends::{Known, SecretBackends};
pub(crate) use store::{SourceError, Store};
pub(crate) use value::{Value, protect_process};
