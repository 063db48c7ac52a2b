//! What keeps a manifest from being given a sidecar: what, where, and what to do.

use std::{fmt, path::PathBuf};

use super::Position;

/// One thing that is wrong. It quotes no scalar of the file: among them are Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The file, as it was named to us.
    pub(crate) file: PathBuf,
    /// Where in it; `None` when it could not be read at all.
    pub(crate) at: Option<Position>,
    /// What is wrong, and why that matters.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, "{at}:")?;
        }
        write!(f, " {}", self.message)?;
        if self.help.is_empty() {
            return Ok(());
        }
        write!(f, "\n  = help: {}", self.help)
    }
}

/// Everything that is wrong with a file: at least one fault, in the file's order.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}
