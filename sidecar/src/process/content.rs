//! What a file holds: its digest, and the interpreter that it names.

use std::{
    fs,
    io::{self, Read as _},
};

use sha2::{Digest as _, Sha256};

use super::{Interpreter, Version, text};

/// The interpreter that a file's first line names.
pub(super) fn named_interpreter(file: fs::File) -> io::Result<Option<Interpreter>> {
    let mut line = Vec::new();
    file.take(text::FIRST_LINE as u64).read_to_end(&mut line)?;
    Ok(text::interpreter(&line))
}

/// What was read of a file, in one go.
pub(crate) struct Content {
    /// Its digest, in hexadecimal.
    pub(crate) sha256: String,
    /// The interpreter it names, if it is a script.
    pub(crate) interpreter: Option<Interpreter>,
}

/// The version of a file that was read, and whether a change of its content always gives it another version. `None`: it changed while
/// it was read.
pub(crate) type ReadVersion = Option<(Version, bool)>;

/// Reads a file to its end, unless it is no longer wanted.
pub(super) fn read(
    mut file: &fs::File,
    longest: u64,
    is_wanted: impl Fn() -> bool,
) -> io::Result<Option<Content>> {
    const CHUNK: usize = 256 * 1024;
    let too_long = |length: u64| {
        let why = format!("it has {length} bytes, and no file of more than {longest} is read");
        io::Error::new(io::ErrorKind::FileTooLarge, why)
    };
    let length = file.metadata()?.len();
    if length > longest {
        return Err(too_long(length));
    }
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut interpreter = None;
    let mut total = 0;
    while is_wanted() {
        let bytes = match file.read(&mut chunk)? {
            0 => {
                let sha256 = hex::encode(digest.finalize());
                return Ok(Some(Content {
                    sha256,
                    interpreter,
                }));
            }
            n => &chunk[..n],
        };
        if total == 0 {
            interpreter = text::interpreter(bytes);
        }
        total += bytes.len() as u64;
        if total > longest {
            return Err(too_long(total));
        }
        digest.update(bytes);
    }
    Ok(None)
}
