//! Where lines are written: standard output, and the audit log. What cannot be written is counted and said once, in the log; and
//! where the gap is, as soon as something can be written there again.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
};

/// Mode of an audit log that is made.
const MODE: u32 = 0o640;

/// What is lost of one output.
pub(super) struct Losses {
    /// As events and metrics name it.
    pub(super) lost_in: &'static str,
    /// Lines that were lost and are not told of there.
    untold: u64,
    /// It ends amid a line.
    is_torn: bool,
    has_failed: bool,
}

impl Losses {
    fn of(lost_in: &'static str) -> Self {
        Self {
            lost_in,
            untold: 0,
            is_torn: false,
            has_failed: false,
        }
    }

    /// Writes lines, and before them `tell` of what was lost there; how many were lost now.
    fn write(
        &mut self,
        to: BorrowedFd<'_>,
        what: &str,
        lines: &[u8],
        tell: impl Fn(u64, &'static str) -> Vec<u8>,
    ) -> u64 {
        let mut text = Vec::new();
        if self.is_torn {
            text.push(b'\n');
        }
        if self.untold > 0 {
            text.extend(tell(self.untold, self.lost_in));
        }
        let before = text.len();
        text.extend_from_slice(lines);
        let (written, failed) = write_all(to, &text);
        if written >= before {
            self.untold = 0;
        }
        if let Some(last) = written.checked_sub(1) {
            self.is_torn = text[last] != b'\n';
        }
        let lost = if written < text.len() {
            count_lines(lines) - count_lines(text.get(before..written).unwrap_or_default())
        } else {
            0
        };
        self.untold += lost;
        match failed {
            Some(e) if !self.has_failed => tracing::error!(
                "events are lost: {what}: {e}. They are counted in kernelseal_events_dropped_total{{lost_in=\"{}\"}}; the agent goes on",
                self.lost_in
            ),
            None if self.has_failed => tracing::info!("{what} takes events again"),
            _ => {}
        }
        self.has_failed = failed.is_some();
        lost
    }
}

/// (Every event of every start comes through here: this is a loop that the compiler makes vectors of.)
fn count_lines(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// How many bytes were written, and why not all.
fn write_all(to: BorrowedFd<'_>, text: &[u8]) -> (usize, Option<Errno>) {
    let mut written = 0;
    while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(to, rest) {
            Ok(0) => return (written, Some(Errno::IO)),
            Ok(bytes) => written += bytes,
            Err(Errno::INTR) => {}
            // (somebody who shares it has made it so)
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                let _ = poll(&mut fds, None);
            }
            Err(e) => return (written, Some(e)),
        }
    }
    (written, None)
}

/// Standard output. (Not by the library's buffer, which keeps what could not be written and tries it again.)
pub(super) struct Stdout(Losses);

impl Stdout {
    pub(super) fn new() -> Self {
        Self(Losses::of("stdout"))
    }

    /// See [`Losses::write`].
    pub(super) fn write(
        &mut self,
        lines: &[u8],
        tell: impl Fn(u64, &'static str) -> Vec<u8>,
    ) -> (u64, &'static str) {
        let lost = self
            .0
            .write(rustix::stdio::stdout(), "standard output", lines, tell);
        (lost, self.0.lost_in)
    }
}

/// A file to which lines are appended, opened anew when its path leads to another.
pub(super) struct AuditLog {
    path: PathBuf,
    file: File,
    /// Which file it is, of a regular one. Another (`/dev/stderr`, a pipe) stays what it is.
    id: Option<(u64, u64)>,
    losses: Losses,
    /// It could not be opened anew.
    is_stuck: bool,
}

impl AuditLog {
    /// Opens or makes it, its folder too.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path, OFlags::empty())?;
        let id = id(&file)?;
        // (as it is now: whoever may write its folder is not to have us follow a link later)
        let path = match id {
            Some(_) => path.canonicalize()?,
            None => path.to_owned(),
        };
        Ok(Self {
            path,
            file,
            id,
            losses: Losses::of("audit_log"),
            is_stuck: false,
        })
    }

    /// Opens it anew if it was moved or taken away; with `is_asked`, in any case. What it is stays open if that fails.
    pub(super) fn follow(&mut self, is_asked: bool) {
        if self.id.is_none() || (!is_asked && self.is_in_place()) {
            return;
        }
        let found = open(&self.path, OFlags::NOFOLLOW | OFlags::NONBLOCK)
            .and_then(|file| Ok((id(&file)?, file)))
            .and_then(|found| match found {
                (Some(id), file) => Ok((id, file)),
                (None, _) => Err(io::Error::other("it is no regular file any more")),
            });
        match found {
            Ok((id, file)) => {
                if self.id != Some(id) {
                    tracing::info!("the audit log was moved; {} is begun", self.path.display());
                    self.losses.is_torn = false;
                }
                (self.file, self.id, self.is_stuck) = (file, Some(id), false);
            }
            Err(e) if !self.is_stuck => {
                tracing::error!(
                    "the audit log was moved, and {} cannot be opened: {e}. Events go on into the one that was moved; it is tried again",
                    self.path.display()
                );
                self.is_stuck = true;
            }
            Err(_) => {}
        }
    }

    fn is_in_place(&self) -> bool {
        let found = std::fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| self.id == Some((found.dev(), found.ino())))
    }

    /// See [`Losses::write`].
    pub(super) fn write(
        &mut self,
        lines: &[u8],
        tell: impl Fn(u64, &'static str) -> Vec<u8>,
    ) -> (u64, &'static str) {
        let what = format!("the audit log {}", self.path.display());
        let lost = self.losses.write(self.file.as_fd(), &what, lines, tell);
        (lost, self.losses.lost_in)
    }
}

/// Device and inode, of a regular file.
fn id(file: &File) -> io::Result<Option<(u64, u64)>> {
    let found = file.metadata()?;
    Ok(found.is_file().then(|| (found.dev(), found.ino())))
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    fn tell(count: u64, lost_in: &'static str) -> Vec<u8> {
        format!("lost {count} in {lost_in}\n").into_bytes()
    }

    #[test]
    fn audit_log_that_was_moved_is_opened_anew_at_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log/audit.log");
        let mut log = AuditLog::open(&path).unwrap();
        let mut write = |lines: &str| {
            log.follow(false);
            assert_eq!(log.write(lines.as_bytes(), tell).0, 0);
        };
        write("one\n");
        write("two\n");
        let moved = folder.path().join("audit.log.1");
        fs::rename(&path, &moved).unwrap();
        write("three\n");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        write("four\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn audit_log_whose_place_a_link_took_stays_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("moved"));
        let other = folder.path().join("other");
        fs::write(&other, "").unwrap();
        let mut log = AuditLog::open(&path).unwrap();
        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        for is_asked in [false, true] {
            log.follow(is_asked);
            log.write(b"line\n", tell);
        }
        assert_eq!(fs::read_to_string(&moved).unwrap(), "line\nline\n");
        assert_eq!(fs::read_to_string(&other).unwrap(), "");
    }

    #[test]
    fn lines_on_a_full_disk_are_counted_and_told_when_there_is_room() {
        let mut log = AuditLog::open(Path::new("/dev/full")).unwrap();
        assert_eq!(log.write(b"one\ntwo\n", tell), (2, "audit_log"));
        assert_eq!(log.write(b"three\n", tell).0, 1);
        log.file = tempfile::tempfile().unwrap();
        assert_eq!(log.write(b"four\n", tell).0, 0);
        let mut found = String::new();
        io::Seek::rewind(&mut log.file).unwrap();
        io::Read::read_to_string(&mut log.file, &mut found).unwrap();
        assert_eq!(found, "lost 3 in audit_log\nfour\n");
    }

    #[test]
    fn lines_that_were_written_in_part_are_lost_and_the_next_begins_anew() {
        /// Where nobody reads, a pipe of a page takes so much.
        const PAGE: i32 = 4096;
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PAGE)).unwrap();
        let mut losses = Losses::of("stdout");
        let long = format!("{}\n", "x".repeat(PAGE.unsigned_abs() as usize - 100));
        assert_eq!(losses.write(writer.as_fd(), "it", long.as_bytes(), tell), 0);
        // (the second waits for room; then the reader goes)
        let second = format!(
            "{}\n{}\n",
            "y".repeat(50),
            "z".repeat(PAGE.unsigned_abs() as usize)
        );
        let lost = std::thread::scope(|scope| {
            let writing =
                scope.spawn(|| losses.write(writer.as_fd(), "it", second.as_bytes(), tell));
            std::thread::sleep(std::time::Duration::from_millis(200));
            drop(reader);
            writing.join().unwrap()
        });
        assert_eq!(lost, 1);
        assert!(losses.is_torn && losses.has_failed);
    }
}
