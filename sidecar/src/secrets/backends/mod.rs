//! Where secrets come from.

pub(super) mod environ;
pub(super) mod file;
pub(super) mod vault;
