//! What is in a delivered directory: written, replaced, told, wiped.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, fchmod, fchown,
        fgetxattr, fsetxattr, fstatvfs, openat, renameat, renameat_with, statat, unlinkat,
    },
    mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fspick},
};
use zeroize::Zeroizing;

use super::{
    BINDING, BINDING_MAX, INODES, OLD, OpenVault, PAGE, READ_ONLY, WRITABLE,
    file::{Access, FileError, SecretFile, step},
};
use crate::secrets::Value;

/// How often it is tried to make a file system read-only that somebody has a file of open for writing, and how long between.
const ATTEMPTS: usize = 100;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(1);

impl OpenVault {
    /// Replaces files, each at once: who opens one finds the old content or the new. What was there stays for who has it
    /// open, under a name that says so, until it is wiped ([`wipe_old`](Self::wipe_old)).
    pub(in crate::seal) fn replace(&self, files: &[SecretFile<'_>]) -> Result<(), FileError> {
        let replaced = self.exchange(files);
        // Nobody changes the folder from here on. (Whoever has an old file open keeps no folder writable: it is there still.)
        let closed = self.reconfigure(&[], READ_ONLY);
        replaced?;
        match closed {
            // (an old file that is wiped already, and open still)
            Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
            Err(e) => Err(step("make a tmpfs read-only")(e)),
        }
    }

    fn exchange(&self, files: &[SecretFile<'_>]) -> Result<(), FileError> {
        // theirs is the folder, too
        let whole = statat(&self.mount, "", AtFlags::EMPTY_PATH);
        let folder = whole
            .map(|stat| Access {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: 0o400,
            })
            .map_err(step("look at a tmpfs"))?;
        for file in files {
            self.make_room(file.value.len())?;
            let new = self.free_name().map_err(step("create a secret file"))?;
            let before = statat(&self.mount, file.name, AtFlags::SYMLINK_NOFOLLOW);
            let access = before.map_or(folder, |stat| Access {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o444,
            });
            write(&self.mount, &new, file, access)?;
            let exchanged = renameat_with(
                &self.mount,
                new.as_str(),
                &self.mount,
                file.name,
                RenameFlags::EXCHANGE,
            );
            match exchanged {
                // somebody has taken it away
                Err(rustix::io::Errno::NOENT) => {
                    renameat(&self.mount, new.as_str(), &self.mount, file.name)
                }
                exchanged => exchanged,
            }
            .map_err(step("put a secret file in place"))?;
        }
        Ok(())
    }

    /// For one that is to take another's name, and for that one then.
    fn free_name(&self) -> rustix::io::Result<String> {
        const TRIES: u32 = 1000;
        for count in 1..=TRIES {
            let name = format!("{OLD}{count}");
            match statat(&self.mount, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => return Ok(name),
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
        Err(rustix::io::Errno::EXIST)
    }

    /// Wipes what was in replaced files, and takes it away. False where somebody has one open: the folder can change until
    /// that is closed, and it is to be called again.
    pub(in crate::seal) fn wipe_old(&self) -> io::Result<bool> {
        let is_old = |name: &OsString| name.as_bytes().starts_with(OLD.as_bytes());
        let old: Vec<OsString> = list(&self.mount)?.into_iter().filter(is_old).collect();
        let mut done = Ok(());
        if !old.is_empty() {
            self.reconfigure(&[], WRITABLE)?;
            for name in old {
                done = done.and(self.overwrite(&name));
                let _ = unlinkat(&self.mount, &name, AtFlags::empty());
            }
        }
        done?;
        match self.reconfigure(&[], READ_ONLY) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::BUSY) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn reconfigure(&self, options: &[(&str, u64)], access: &str) -> rustix::io::Result<()> {
        reconfigure(self.mount.as_fd(), options, access)
    }

    /// Names of the files that are there.
    pub(in crate::seal) fn names(&self) -> io::Result<Vec<String>> {
        let names = list(&self.mount)?.into_iter();
        Ok(names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !name.starts_with(OLD))
            .collect())
    }

    /// The binding that a file is of; none where its delivery noted none.
    pub(in crate::seal) fn binding_of(&self, name: &str) -> io::Result<Option<String>> {
        let mut binding = vec![0; BINDING_MAX];
        match fgetxattr(self.open(name)?, BINDING, &mut binding[..]) {
            Ok(length) => binding.truncate(length),
            // (a kernel whose tmpfs has no attributes)
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        Ok(String::from_utf8(binding).ok())
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(openat(&self.mount, name, flags, Mode::empty())?.into())
    }

    /// Whether a file has this content.
    pub(in crate::seal) fn has(&self, name: &str, value: &Value) -> io::Result<bool> {
        let file = self.open(name)?;
        if file.metadata()?.len() != value.len() as u64 {
            return Ok(false);
        }
        // Room from the start: growing would leave copies behind.
        let mut content = Zeroizing::new(vec![0; value.len()]);
        file.read_exact_at(&mut content, 0)?;
        Ok(*content == *value.expose())
    }

    /// Sets the limits of the tmpfs to what is in it and a file of that length, which can be written then.
    fn make_room(&self, length: usize) -> Result<(), FileError> {
        let limit = || -> rustix::io::Result<()> {
            let now = fstatvfs(&self.mount)?;
            let pages = now.f_blocks - now.f_bfree + length.div_ceil(PAGE) as u64;
            let options = [
                // (a size of none is no limit)
                ("size", (pages + 1) * PAGE as u64),
                ("nr_inodes", now.f_files - now.f_ffree + INODES as u64),
            ];
            self.reconfigure(&options, WRITABLE)
        };
        limit().map_err(step("make room in a tmpfs"))
    }

    /// Overwrites every file that is there, whatever its name by now. What cannot be overwritten
    /// does not keep the others from it.
    pub(crate) fn wipe(&self) -> io::Result<()> {
        self.reconfigure(&[], WRITABLE)?;
        let mut done = Ok(());
        for name in list(&self.mount)? {
            done = done.and(self.overwrite(&name));
        }
        done
    }

    fn overwrite(&self, name: &OsStr) -> io::Result<()> {
        // Not to wait, should the program have put a pipe there.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match openat(&self.mount, name, flags, Mode::empty()) {
            Ok(file) => wipe(&file.into()),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// A secret file of that owner and mode.
pub(super) fn write(
    dir: &OwnedFd,
    name: &str,
    secret: &SecretFile<'_>,
    access: Access,
) -> Result<(), FileError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags | OFlags::NOFOLLOW, Mode::RUSR)
        .map_err(step("create a secret file"))?;
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    // In this order: of another's file only CAP_FOWNER sets the mode, which no agent needs.
    fchmod(&file, Mode::from_raw_mode(access.mode))
        .and_then(|()| fchown(&file, Some(uid), Some(gid)))
        .map_err(step("give a secret file to the program's user"))?;
    match fsetxattr(
        &file,
        BINDING,
        secret.binding.as_bytes(),
        XattrFlags::empty(),
    ) {
        // A kernel whose tmpfs has no attributes: the next agent leaves the file as it is.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(e) => return Err(step("note a secret file's binding")(e)),
    }
    File::from(file)
        .write_all(secret.value.expose())
        .map_err(step("write a secret file"))
}

/// Changes options of the file system of a mount.
fn reconfigure(
    mount: BorrowedFd<'_>,
    options: &[(&str, u64)],
    access: &str,
) -> rustix::io::Result<()> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = fspick(mount, "", flags)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, value.to_string())?;
    }
    fsconfig_set_flag(context.as_fd(), access)?;
    fsconfig_reconfigure(context.as_fd())
}

/// Makes the file system of a mount read-only, in which files were written and closed; `first` is the first attempt.
///
/// The kernel refuses with EBUSY while anybody has a file of it open for writing (`sb_prepare_remount_readonly`, fs/namespace.c).
/// Nobody sees it yet, but the agent may be starting a process of its own: a forked child has copies of all our descriptors until
/// its exec closes them.
pub(super) fn make_read_only(
    mount: BorrowedFd<'_>,
    first: rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    unless_busy(first, || reconfigure(mount, &[], READ_ONLY))
}

/// Tries again as long as the answer is EBUSY, but not for ever.
fn unless_busy(
    first: rustix::io::Result<()>,
    mut attempt: impl FnMut() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let mut done = first;
    for _ in 0..ATTEMPTS {
        if done != Err(rustix::io::Errno::BUSY) {
            break;
        }
        thread::sleep(BETWEEN_ATTEMPTS);
        done = attempt();
    }
    done
}

/// Overwrites a file.
pub(in crate::seal) fn wipe(file: &File) -> io::Result<()> {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let length = file.metadata()?.len();
    for page in (0..length).step_by(PAGE) {
        let left = usize::try_from(length - page).unwrap_or(PAGE);
        file.write_all_at(&ZEROS[..left.min(PAGE)], page)?;
    }
    Ok(())
}

/// The regular files of a directory.
fn list(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut files = Vec::new();
    for entry in Dir::new(openat(dir, ".", flags, Mode::empty())?)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if let Ok(stat) = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        {
            files.push(name);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn file_system_that_is_busy_for_a_moment_is_tried_again() {
        let mut answers = [Err(Errno::BUSY), Ok(())].into_iter();
        let done = unless_busy(Err(Errno::BUSY), || answers.next().unwrap());
        assert_eq!(done, Ok(()));
        assert!(answers.next().is_none());
    }

    #[test]
    fn file_system_that_stays_busy_or_fails_otherwise_is_given_up() {
        let mut attempts = 0;
        let done = unless_busy(Err(Errno::BUSY), || {
            attempts += 1;
            Err(Errno::BUSY)
        });
        assert_eq!((done, attempts), (Err(Errno::BUSY), ATTEMPTS));
        let other = unless_busy(Err(Errno::PERM), || Ok(()));
        assert_eq!(other, Err(Errno::PERM));
    }
}
