//! Where a program's file lies, and by which links it has the name that it was started by.

use std::{
    fs, io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, FileType, FsWord, Mode, OFlags, Statx, StatxAttributes, StatxFlags, fstat, fstatfs,
    openat, readlinkat, statx,
};

use super::{FileId, Process, file_id, lines, text};

/// Symbolic links that the kernel follows in one path (`MAXSYMLINKS`, include/linux/namei.h).
const MAX_LINKS: usize = 40;
/// Folders above a file that are looked at: a path has 4,096 bytes.
const MAX_FOLDERS: usize = 2048;
/// `FUSE_SUPER_MAGIC` (uapi/linux/magic.h)
const FUSE: FsWord = 0x6573_5546;
/// Who may write, beside the owner.
const WRITE_BY_OTHERS: u32 = 0o022;

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// What a process has as its root.
pub(crate) struct Root {
    folder: OwnedFd,
    /// The number of its mount namespace.
    pub(crate) namespace: u32,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// A file or a symbolic link, in its folder.
pub(crate) struct Entry {
    folder: OwnedFd,
    file: OwnedFd,
    /// In the process's root.
    pub(crate) path: PathBuf,
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Entry {
    pub(crate) fn id(&self) -> io::Result<FileId> {
        file_id(&self.file)
    }

    /// Why somebody who is not root could put another in its place, or write it; `None` where that is not seen from here.
    pub(crate) fn why_open_to_others(&self) -> io::Result<Option<String>> {
        let found = look(&self.file)?;
        let path = self.path.display();
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(Some(format!("{path} is mounted there")));
        }
        // (its server says what it likes, of owner and mode, too)
        if fstatfs(&self.file)?.f_type == FUSE {
            return Ok(Some(format!(
                "{path} is on a file system that a program serves (FUSE)"
            )));
        }
        if let Some(why) = is_open(&self.file, &found)? {
            return Ok(Some(why));
        }
        let mut folder = self.folder.try_clone()?;
        let mut found = look(&folder)?;
        for _ in 0..MAX_FOLDERS {
            if let Some(why) = is_open(&folder, &found)? {
                return Ok(Some(why));
            }
            let above = openat(&folder, "..", LOOK | OFlags::DIRECTORY, Mode::empty())?;
            let next = look(&above)?;
            // (a folder may be mounted within itself)
            if (next.stx_mnt_id, next.stx_ino) == (found.stx_mnt_id, found.stx_ino) {
                return Ok(None);
            }
            (folder, found) = (above, next);
        }
        Err(io::Error::other("it lies below too many folders"))
    }
}

fn look(file: &OwnedFd) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    Ok(statx(file, "", AtFlags::EMPTY_PATH, wanted)?)
}

/// Why somebody who is not root may write it. (Of a link, which has no mode of its own, who may change it is a matter of its
/// folder. An access control list's mask shows as the group's rights.)
fn is_open(file: &OwnedFd, found: &Statx) -> io::Result<Option<String>> {
    let mode = u32::from(found.stx_mode);
    let is_link = FileType::from_raw_mode(mode) == FileType::Symlink;
    let why = if found.stx_uid != 0 {
        format!("belongs to user {}, not to root", found.stx_uid)
    } else if !is_link && mode & WRITE_BY_OTHERS != 0 {
        format!(
            "may be written by others than root (mode {:04o})",
            mode & 0o7777
        )
    } else {
        return Ok(None);
    };
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(Some(format!("{} {why}", path.display())))
}

impl Process {
    /// Its root.
    pub(crate) fn root_mount(self) -> io::Result<Root> {
        let namespace = fs::metadata(self.file("ns/mnt"))?.ino();
        Ok(Root {
            folder: self.folder("root")?,
            namespace: u32::try_from(namespace).map_err(io::Error::other)?,
        })
    }

    /// The file it executes where it lies; an error where its path leads to another by now.
    pub(crate) fn executed_entry(self) -> io::Result<Entry> {
        // (both as its mount namespace has them, whatever our own root is)
        let root = fs::read_link(self.file("root"))?;
        let path = self.executable()?;
        let path = Path::new("/").join(path.strip_prefix(root).unwrap_or(&path));
        let entry = self.entry(&path)?;
        if entry.id()? == self.executable_file()? {
            Ok(entry)
        } else {
            Err(io::Error::other("its path leads to another file by now"))
        }
    }

    /// The files of which it has code in its memory, each to be asked about.
    pub(crate) fn mapped_code(self) -> io::Result<Vec<OwnedFd>> {
        let mut ranges = Vec::new();
        let maps = fs::File::open(self.file("maps"))?;
        lines::each_line(maps, lines::LONGEST_TEXT, |line| {
            ranges.extend(text::range_of_code(line).map(str::to_owned));
            ControlFlow::Continue(())
        })?;
        let open = |range| {
            let path = self.file("map_files").join(range);
            Ok(rustix::fs::open(path, LOOK, Mode::empty())?)
        };
        ranges.into_iter().map(open).collect()
    }

    /// What there is at a path in its root; not what a link there leads to.
    fn entry(self, path: &Path) -> io::Result<Entry> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let folder = self.open_in_root(folder, LOOK | OFlags::DIRECTORY)?;
        let file = openat(&folder, name, LOOK | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Entry {
            folder,
            file,
            path: path.to_owned(),
        })
    }

    /// Follows a path to the file at its end. `look` sees each symbolic link in the place of the file, and may stop. It does not
    /// see links among the folders above: they do not change the file's name.
    pub(crate) fn follow<E>(
        self,
        path: &Path,
        mut look: impl FnMut(&Entry) -> Result<(), E>,
    ) -> io::Result<Result<Entry, E>> {
        let mut path = if path.is_absolute() {
            path.to_owned()
        } else {
            let from = self.working_directory();
            from.ok_or(io::ErrorKind::NotFound)?.join(path)
        };
        for _ in 0..=MAX_LINKS {
            let entry = self.entry(&path)?;
            if FileType::from_raw_mode(fstat(&entry.file)?.st_mode) != FileType::Symlink {
                return Ok(Ok(entry));
            }
            if let Err(stop) = look(&entry) {
                return Ok(Err(stop));
            }
            let target = readlinkat(&entry.file, "", Vec::new())?.into_bytes();
            let target = PathBuf::from(std::ffi::OsString::from_vec(target));
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(rustix::io::Errno::LOOP.into())
    }
}
