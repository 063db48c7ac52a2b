//! Sources: what a configuration names, looked up. Files are read at every delivery, so that a
//! changed file is picked up; the agent's environment is read once and wiped.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::libc;
use secrecy::{ExposeSecret as _, zeroize::Zeroizing};

use super::{Value, environ};
use crate::config::{Config, Position, SecretKeyRef, Source};

/// Bytes a secret may have. Kubernetes' own limit for a Secret is 1 MiB.
pub(crate) const MAX_VALUE: u64 = 4 * 1024 * 1024;

/// A source that gives no value. Says which, never what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A file.
    #[error("fileRef {path}: {cause}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A variable.
    #[error("envRef {0}: the agent has no such variable. Set it where the agent is started")]
    Env(String),
    /// A Kubernetes Secret.
    #[error("secretKeyRef {reference}: {cause}. Mount the Secret at {place}")]
    Mounted {
        /// `name/key`
        reference: String,
        /// Where we looked.
        place: String,
        /// Why.
        cause: io::Error,
    },
    /// Not in this version.
    #[error(
        "vaultRef is not supported by this version. Use fileRef with a file that the Vault agent writes"
    )]
    Vault,
}

/// What is known of the sources. Values of files are not kept.
pub(crate) struct Store {
    environ: HashMap<String, Value>,
    secrets_dir: PathBuf,
}

impl Store {
    /// Takes what can be taken at start, and checks what must be there then: an unmounted
    /// `secretKeyRef` is an error, with its place in the configuration.
    pub(crate) fn open(config: &Config) -> Result<Self, Vec<(Position, SourceError)>> {
        let refs = || {
            config
                .secrets
                .iter()
                .flat_map(|binding| &binding.secret_refs)
        };
        let names: Vec<&str> = refs()
            .filter_map(|secret| match &secret.source {
                Source::EnvRef(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let environ = environ::take(&names).map_err(|cause| {
            let path = environ::MEMORY.into();
            vec![(
                Position { line: 1, column: 1 },
                SourceError::File { path, cause },
            )]
        })?;
        let store = Self {
            environ,
            secrets_dir: config.secrets_dir.clone(),
        };
        let wrong: Vec<_> = refs()
            .filter_map(|secret| match &secret.source {
                Source::SecretKeyRef(key) => {
                    store.mounted(key).err().map(|error| (secret.at, error))
                }
                _ => None,
            })
            .collect();
        if wrong.is_empty() {
            Ok(store)
        } else {
            Err(wrong)
        }
    }

    /// The files that values are read from: one that changes is another value, maybe.
    pub(crate) fn files(&self, config: &Config) -> Vec<PathBuf> {
        let refs = config
            .secrets
            .iter()
            .flat_map(|binding| &binding.secret_refs);
        let mut files: Vec<_> = refs
            .filter_map(|secret| match &secret.source {
                Source::FileRef(file) => Some(file.path.clone()),
                Source::SecretKeyRef(key) => Some(self.place(key).join(&key.key)),
                _ => None,
            })
            .collect();
        files.sort();
        files.dedup();
        files
    }

    /// Where a Secret is mounted, if it is.
    fn place(&self, secret: &SecretKeyRef) -> PathBuf {
        let mut place = self.secrets_dir.clone();
        place.extend(&secret.namespace);
        place.push(&secret.name);
        place
    }

    /// A source's value, now.
    pub(crate) fn get(&self, source: &Source) -> Result<Value, SourceError> {
        match source {
            Source::Value(value) => Ok(Value::new(Zeroizing::new(
                value.expose_secret().as_bytes().to_vec(),
            ))),
            Source::EnvRef(name) => self
                .environ
                .get(name)
                .cloned()
                .ok_or_else(|| SourceError::Env(name.clone())),
            Source::FileRef(file) => {
                let mut bytes = read(&file.path).map_err(|cause| SourceError::File {
                    path: file.path.clone(),
                    cause,
                })?;
                while file.trim && bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    bytes.pop();
                }
                Ok(Value::new(bytes))
            }
            Source::SecretKeyRef(key) => self.mounted(key),
            Source::VaultRef(_) => Err(SourceError::Vault),
        }
    }

    /// A key of a Secret mounted as a directory, with or without its namespace above it.
    fn mounted(&self, secret: &SecretKeyRef) -> Result<Value, SourceError> {
        let relative = Path::new(&secret.name).join(&secret.key);
        let mut tried = Vec::new();
        if let Some(namespace) = &secret.namespace {
            tried.push(self.secrets_dir.join(namespace).join(&relative));
        } else {
            tried.push(self.secrets_dir.join(&relative));
        }
        let mut cause = io::Error::from(io::ErrorKind::NotFound);
        for path in &tried {
            match read(path) {
                Ok(bytes) => return Ok(Value::new(bytes)),
                Err(e) => cause = e,
            }
        }
        Err(SourceError::Mounted {
            reference: relative.display().to_string(),
            place: tried[0]
                .parent()
                .unwrap_or(&self.secrets_dir)
                .display()
                .to_string(),
            cause,
        })
    }
}

/// A regular file's bytes. Does not wait: a pipe or a device is an error.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MAX_VALUE {
        return Err(io::Error::other(format!(
            "{} bytes are more than a secret may have ({MAX_VALUE})",
            metadata.len()
        )));
    }
    // Room for one byte more than it has: that read tells whether it grew, and nothing moves.
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    let read = file.take(metadata.len() + 1).read_to_end(&mut bytes)?;
    if read != length {
        return Err(io::Error::other("it changed while it was read"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_file_is_taken_byte_by_byte() {
        let dir = dir();
        let path = dir.path().join("binary");
        let bytes: Vec<u8> = (0..=255)
            .cycle()
            .take(1024 * 1024)
            .chain(*b"\n\n\0\n")
            .collect();
        std::fs::write(&path, &bytes).unwrap();
        assert!(*read(&path).unwrap() == bytes);
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let dir = dir();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_value() {
        let dir = dir();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(read(&path).unwrap().is_empty());
    }
}
