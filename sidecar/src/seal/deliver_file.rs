//! Delivery as files: a tmpfs of the process's own, in its own mount namespace, filled before it
//! becomes visible, wiped and unmounted when the last of the sealed tree is gone.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileExt as _, MetadataExt as _},
        },
    },
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, fchmod, fchown,
        fgetxattr, fsetxattr, fstatvfs, mkdirat, openat, openat2, renameat, statat, unlinkat,
    },
    mount::{
        FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, fspick, mount_remount, move_mount, unmount,
    },
    process::fchdir,
};
use sidecar_common::policy::Held;
use zeroize::Zeroizing;

use crate::{config::FileAccess, process::kernel_dev, secrets::Value};

/// Where secret directories are, from the program's own root.
const PLACE: [&str; 3] = ["run", "kernelseal", "secrets"];
/// What `KERNELSEAL_SECRETS_DIR` begins with.
pub(super) const PLACE_PATH: &str = "/run/kernelseal/secrets";
/// Bytes a tmpfs accounts in.
const PAGE: usize = 4096;
/// What a file takes of a tmpfs' inodes: since 6.6 its attributes count, for less than another 1024 bytes
/// (`BOGO_INODE_SIZE`, `include/linux/shmem_fs.h`).
const INODES: usize = 2;
/// The attribute of a secret file that has its binding's name, for the next agent. Who may read or write it could load
/// kernelseal.
const BINDING: &str = "trusted.kernelseal.binding";
/// The longest such name, in bytes: that of a configuration.
const BINDING_MAX: usize = 253;
/// The options of a file system that say whether anything in it may change.
const READ_ONLY: &str = "ro";
const WRITABLE: &str = "rw";

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
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Access {
    /// Of a file of that program's.
    fn of(file: &SecretFile<'_>, held: &Held) -> Self {
        let wanted = file.access.unwrap_or_default();
        Self {
            uid: wanted.uid.unwrap_or(held.uid),
            gid: wanted.gid.unwrap_or(held.gid),
            mode: wanted.mode.bits(),
        }
    }

    /// Of the folder with these: who may read one of them may come to it. (Nobody but the sealed tree opens it.)
    fn of_folder(files: &[SecretFile<'_>], held: &Held) -> Self {
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

fn step<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> FileError {
    move |cause| FileError::Step {
        what: what.into(),
        cause: cause.into(),
        hint: "",
    }
}

/// The thread that delivers files: its own view of the file system, apart from its process's.
pub(crate) struct Mounter {
    home: OwnedFd,
    home_inode: u64,
}

/// A delivered directory. Holds what is needed to take it away again, and nothing that a path
/// could be redirected by.
pub(crate) struct Vault {
    mount: OwnedFd,
    namespace: Option<File>,
    parent: OwnedFd,
    name: String,
}

impl Mounter {
    /// Takes note of where we live.
    pub(crate) fn new() -> io::Result<Self> {
        let home = File::open("/proc/self/ns/mnt")?;
        let home_inode = home.metadata()?.ino();
        Ok(Self {
            home: home.into(),
            home_inode,
        })
    }

    /// Delivers: writes the files, then makes them visible to the program.
    pub(crate) fn mount(&self, held: &Held, files: &[SecretFile<'_>]) -> Result<Vault, FileError> {
        self.attach(held, Self::prepare(held, files)?)
    }

    /// Makes the tmpfs and writes the files; they are owned by the program's user, mode 0400, unless the binding says otherwise.
    fn prepare(held: &Held, files: &[SecretFile<'_>]) -> Result<OwnedFd, FileError> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("make a tmpfs"))?;
        let pages: usize = files
            .iter()
            .map(|file| file.value.len().div_ceil(PAGE))
            .sum();
        let set = |key: &str, value: String| {
            fsconfig_set_string(context.as_fd(), key, value.as_str())
                .map_err(step("configure a tmpfs"))
        };
        set("size", ((pages + 1) * PAGE).to_string())?;
        set("nr_inodes", (files.len() * INODES + 2).to_string())?;
        let folder = Access::of_folder(files, held);
        set("mode", format!("{:04o}", folder.mode))?;
        set("uid", folder.uid.to_string())?;
        set("gid", folder.gid.to_string())?;
        // 6.4; before it, secrets in a tmpfs can be swapped out (SECURITY.md says so)
        let _ = fsconfig_set_flag(context.as_fd(), "noswap");
        fsconfig_create(context.as_fd()).map_err(step("make a tmpfs"))?;
        let mount = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )
        .map_err(step("make a tmpfs"))?;
        for file in files {
            write(&mount, file.name, file, Access::of(file, held))?;
        }
        // From here on nobody deletes, replaces or links them: not by this mount, nor by another of it.
        fsconfig_set_flag(context.as_fd(), READ_ONLY)
            .and_then(|()| fsconfig_reconfigure(context.as_fd()))
            .map_err(step("make a tmpfs read-only"))?;
        Ok(mount)
    }

    /// Makes prepared files visible to the program.
    fn attach(&self, held: &Held, mount: OwnedFd) -> Result<Vault, FileError> {
        let (namespace, root) = self.view_of(held.pid)?;
        let parent = PLACE
            .iter()
            .try_fold(root, |dir, name| subdirectory(&dir, name))?;
        let (name, target) = free_place(&parent, held.own_pid)?;
        let vault = Vault {
            mount,
            namespace,
            parent,
            name,
        };
        self.within(vault.namespace.as_ref(), || {
            move_mount(
                vault.mount.as_fd(),
                "",
                target.as_fd(),
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
        })
        .map_err(step("mount its secrets"))?;
        Ok(vault)
    }

    /// A directory that an earlier agent delivered, where a process sees it.
    pub(super) fn find(&self, pid: u32, path: &str, dev: u32) -> Result<Vault, FileError> {
        let (namespace, root) = self.view_of(pid)?;
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        let parent = parent
            .split('/')
            .filter(|name| !name.is_empty())
            .try_fold(root, |dir, name| subdirectory(&dir, name))?;
        let mount = subdirectory(&parent, name)?;
        let stat = statat(&mount, "", AtFlags::EMPTY_PATH).map_err(step("look at a tmpfs"))?;
        if kernel_dev(stat.st_dev) != dev {
            let cause = io::Error::other("something else is mounted over it");
            return Err(step("open its secret directory")(cause));
        }
        Ok(Vault {
            mount,
            namespace,
            parent,
            name: name.to_owned(),
        })
    }

    /// A process's mount namespace, if it is not ours, and its root.
    fn view_of(&self, pid: u32) -> Result<(Option<File>, OwnedFd), FileError> {
        let namespace =
            File::open(format!("/proc/{pid}/ns/mnt")).map_err(step("its mount namespace"))?;
        let inode = namespace
            .metadata()
            .map_err(step("its mount namespace"))?
            .ino();
        let root = openat(
            rustix::fs::CWD,
            format!("/proc/{pid}/root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(step("its root directory"))?;
        Ok(((inode != self.home_inode).then_some(namespace), root))
    }

    /// Takes the mount away.
    pub(crate) fn remove(&self, vault: &Vault) -> io::Result<()> {
        self.within(vault.namespace.as_ref(), || {
            // By the mount itself, not by a path that may lead elsewhere by now.
            fchdir(&vault.mount)?;
            // Somebody may have made the mount read-only (mount_setattr(2) asks no hook): it would not be wiped.
            let as_made = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let _ = mount_remount(".", MountFlags::BIND | as_made, "");
            let unmounted = unmount(".", UnmountFlags::DETACH);
            rustix::process::chdir("/")?;
            unmounted
        })?;
        match unlinkat(&vault.parent, vault.name.as_str(), AtFlags::REMOVEDIR) {
            // The mount is gone, which counts. (The folder below it: taken away where it is
            // mounted too, or somebody has put something there.)
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Runs something in another mount namespace. Coming back cannot fail without ending the
    /// agent: a thread astray in an application's files is worse than none.
    fn within<T>(
        &self,
        namespace: Option<&File>,
        work: impl FnOnce() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let Some(namespace) = namespace else {
            return Ok(work()?);
        };
        // Nobody enters who shares a root and a working directory, as each thread does with the one that started it (a tracer
        // with the one that delivers).
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        let result = work();
        if let Err(e) = setns(&self.home, CloneFlags::CLONE_NEWNS) {
            tracing::error!("cannot return to our own mount namespace: {e}; ending");
            std::process::abort();
        }
        Ok(result?)
    }
}

impl Vault {
    /// The directory, as the program sees it.
    pub(crate) fn path(&self) -> String {
        format!("{PLACE_PATH}/{}", self.name)
    }

    /// Replaces files, each at once: who opens one finds the old content or the new. What was there, for who has it
    /// open, is added to `old`; until that is closed the folder can change, see [`close`](Self::close).
    pub(super) fn replace(
        &self,
        files: &[SecretFile<'_>],
        old: &mut Vec<File>,
    ) -> Result<(), FileError> {
        const NEW: &str = ".new";
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
            // (one that an agent was killed over)
            let _ = unlinkat(&self.mount, NEW, AtFlags::empty());
            let before = statat(&self.mount, file.name, AtFlags::SYMLINK_NOFOLLOW);
            let access = before.map_or(folder, |stat| Access {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o444,
            });
            write(&self.mount, NEW, file, access)?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let before = openat(&self.mount, file.name, flags, Mode::empty());
            renameat(&self.mount, NEW, &self.mount, file.name)
                .map_err(step("put a secret file in place"))?;
            // (somebody may have taken it away)
            old.extend(before.ok().map(File::from));
        }
        Ok(())
    }

    /// Nobody changes the folder from here on. False where the kernel does not do that yet: it wants no file open that
    /// has been replaced.
    pub(super) fn close(&self) -> io::Result<bool> {
        match self.reconfigure(&[], READ_ONLY) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::BUSY) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn reconfigure(&self, options: &[(&str, u64)], access: &str) -> rustix::io::Result<()> {
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = fspick(self.mount.as_fd(), "", flags)?;
        for (key, value) in options {
            fsconfig_set_string(context.as_fd(), *key, value.to_string())?;
        }
        fsconfig_set_flag(context.as_fd(), access)?;
        fsconfig_reconfigure(context.as_fd())
    }

    /// Names of the files that are there.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let names = list(&self.mount)?.into_iter();
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }

    /// The binding that a file is of; none where its delivery noted none.
    pub(super) fn binding_of(&self, name: &str) -> Option<String> {
        let mut binding = vec![0; BINDING_MAX];
        let length = fgetxattr(self.open(name).ok()?, BINDING, &mut binding[..]).ok()?;
        binding.truncate(length);
        String::from_utf8(binding).ok()
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(openat(&self.mount, name, flags, Mode::empty())?.into())
    }

    /// Whether a file has this content.
    pub(super) fn has(&self, name: &str, value: &Value) -> io::Result<bool> {
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
fn write(
    dir: &OwnedFd,
    name: &str,
    secret: &SecretFile<'_>,
    access: Access,
) -> Result<(), FileError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(dir, name, flags | OFlags::NOFOLLOW, Mode::RUSR)
        .map_err(step("create a secret file"))?;
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    fchown(&file, Some(uid), Some(gid))
        .and_then(|()| fchmod(&file, Mode::from_raw_mode(access.mode)))
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

/// Overwrites a file.
pub(super) fn wipe(file: &File) -> io::Result<()> {
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

/// A directory for a process's files: named by its number, and where children of an earlier process
/// of that number still use theirs, by that and a count.
fn free_place(parent: &OwnedFd, own_pid: u32) -> Result<(String, OwnedFd), FileError> {
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
fn subdirectory(dir: &impl AsFd, name: &str) -> Result<OwnedFd, FileError> {
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
