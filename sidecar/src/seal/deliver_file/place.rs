//! Where secret directories are mounted, and how they are found there: no link is followed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2, readlink, statat},
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    process::fchdir,
};

use super::{FileError, PLACE_PATH, step};

/// Takes a mount away, in whose namespace we are.
pub(super) fn unmount_here(mount: &OwnedFd) -> io::Result<()> {
    // By the mount itself, not by a path that may lead elsewhere by now.
    fchdir(mount)?;
    // Somebody may have made the mount read-only (mount_setattr(2) asks no hook): it would not be wiped.
    let as_made = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _ = mount_remount(".", MountFlags::BIND | as_made, "");
    let unmounted = unmount(".", UnmountFlags::DETACH);
    rustix::process::chdir("/")?;
    Ok(unmounted?)
}

pub(super) fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "it is not mounted any more, or something else is mounted over it",
    )
}

/// A directory, seen from our root, no link followed.
pub(super) fn at(path: &str) -> rustix::io::Result<OwnedFd> {
    openat2(
        rustix::fs::CWD,
        if path.is_empty() { "/" } else { path },
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// What a process's root is below, in its mount namespace: nothing, unless it has a root of its own.
pub(super) fn path_of_root(root: &OwnedFd) -> io::Result<String> {
    let here = fstat(root)?;
    let above = statat(root, "..", AtFlags::empty())?;
    if (here.st_dev, here.st_ino) == (above.st_dev, above.st_ino) {
        return Ok(String::new());
    }
    let path = readlink(format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())?;
    // (where it is not what it says, the directory is looked for)
    Ok(path.into_string().unwrap_or_default())
}

/// A directory for a process's files: named by its number, and where children of an earlier process
/// of that number still use theirs, by that and a count.
pub(super) fn free_place(parent: &OwnedFd, own_pid: u32) -> Result<(String, OwnedFd), FileError> {
    const TRIES: u32 = 64;
    let dev = |dir: &OwnedFd| statat(dir, "", AtFlags::EMPTY_PATH).map(|stat| stat.st_dev);
    let home = dev(parent).map_err(step("look at its secrets directory"))?;
    for count in 1..=TRIES {
        let name = if count == 1 {
            own_pid.to_string()
        } else {
            format!("{own_pid}-{count}")
        };
        let target = subdirectory(parent, &name)?;
        if dev(&target).map_err(step("look at its secrets directory"))? == home {
            return Ok((name, target));
        }
    }
    Err(step("find a place for its files")(io::Error::from(
        io::ErrorKind::AlreadyExists,
    )))
}

/// Opens a directory below another, making it where it is missing; no link is followed.
pub(super) fn subdirectory(dir: &impl AsFd, name: &str) -> Result<OwnedFd, FileError> {
    let dir: BorrowedFd<'_> = dir.as_fd();
    let open = || {
        openat2(
            dir,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    let fail = |cause: rustix::io::Errno| FileError::Step {
        what: format!("directory {name} of {PLACE_PATH} in the program's root"),
        cause: cause.into(),
        hint: if cause == rustix::io::Errno::ROFS {
            ". Its root file system is read-only: mount an emptyDir of medium Memory at /run/kernelseal"
        } else {
            ""
        },
    };
    match open() {
        Ok(found) => Ok(found),
        Err(rustix::io::Errno::NOENT) => {
            match mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            }
            open().map_err(fail)
        }
        Err(e) => Err(fail(e)),
    }
}
