//! A file that holds a secret, read as it is.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::libc;
use secrecy::zeroize::Zeroizing;

/// Bytes a secret may have. Kubernetes' own limit for a Secret is 1 MiB.
pub(crate) const MAX_VALUE: u64 = 4 * 1024 * 1024;

/// A regular file's bytes. Does not wait: a pipe or a device is an error.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
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
