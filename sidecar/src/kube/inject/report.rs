//! What became of an object: a line of its own on stderr.

use std::{fmt, path::PathBuf};

use super::{Fault, Position};

/// An object, and what became of it. It quotes nothing of the file but kind, name and namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The file, as it was named to us.
    pub(crate) file: PathBuf,
    /// Where in it.
    pub(crate) at: Position,
    /// Kind, namespace and name.
    pub(crate) title: String,
    /// What became of it.
    pub(crate) outcome: Outcome,
    /// What to do; mostly nothing.
    pub(crate) help: String,
}

impl Report {
    /// As a line among notes and errors.
    pub(super) fn told(self) -> Fault {
        Fault {
            file: self.file,
            at: Some(self.at),
            message: format!("{}: {}", self.title, self.outcome),
            help: self.help,
        }
    }
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The sidecar was added.
    Injected,
    /// The sidecar was there; something that belongs to it was added.
    Completed,
    /// Everything was there.
    AlreadyThere,
    /// A sidecar was there that is not the one that would be added. It stays.
    Different,
    /// A sidecar was there and was replaced.
    Upgraded,
    /// The sidecar was taken away.
    Removed,
    /// It stays as it is, for this reason.
    Skipped(String),
}

impl Outcome {
    /// Whether the object has, or had, what it was asked for.
    pub(super) fn is_done(&self) -> bool {
        !matches!(self, Self::Skipped(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Injected => "injected",
            Self::Completed => "already there; what it lacked was added",
            Self::AlreadyThere => "already there",
            Self::Different => "already there, but not as it would be added",
            Self::Upgraded => "upgraded",
            Self::Removed => "removed",
            Self::Skipped(why) => return write!(f, "skipped: {why}"),
        })
    }
}
