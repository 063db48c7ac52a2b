//! A file to deliver: whose it is, and why it could not be.

use std::io;

use sidecar_common::policy::Held;

use crate::{config::FileAccess, limits, secrets::Value};

/// A file to deliver.
#[derive(Clone, Copy)]
pub(crate) struct SecretFile<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its content.
    pub(crate) value: &'a Value,
    /// The binding that it is of.
    pub(crate) binding: &'a str,
    /// Owner and mode; without it they stay as they are.
    pub(crate) access: Option<FileAccess>,
}

/// Whose a file is, and who reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Access {
    /// Of a file of that program's.
    pub(super) fn of(file: &SecretFile<'_>, held: &Held) -> Self {
        let wanted = file.access.unwrap_or_default();
        Self {
            uid: wanted.uid.unwrap_or(held.uid),
            gid: wanted.gid.unwrap_or(held.gid),
            mode: wanted.mode.bits(),
        }
    }

    /// Of the folder with these: who may read one of them may come to it. (Nobody but the sealed tree opens it.)
    pub(super) fn of_folder(files: &[SecretFile<'_>], held: &Held) -> Self {
        let mut all = files.iter().map(|file| Self::of(file, held));
        let first = all.next().unwrap_or(Self {
            uid: held.uid,
            gid: held.gid,
            mode: 0o400,
        });
        if all.any(|other| other != first) {
            return Self {
                mode: 0o555,
                ..first
            };
        }
        let mode = first.mode | first.mode >> 2;
        Self { mode, ..first }
    }
}

/// Why files could not be delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// A step failed.
    #[error("{what}: {cause}{hint}")]
    Step {
        /// Which.
        what: String,
        /// Why.
        cause: io::Error,
        /// What to do, where there is something.
        hint: &'static str,
    },
}

impl FileError {
    /// Whether it is for want of descriptors or memory.
    pub(in crate::seal) fn is_for_lack(&self) -> bool {
        let Self::Step { cause, .. } = self;
        limits::is_for_lack(cause)
    }
}

pub(in crate::seal) fn step<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> FileError {
    move |cause| FileError::Step {
        what: what.into(),
        cause: cause.into(),
        hint: "",
    }
}
