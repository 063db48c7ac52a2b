//! Delivery as files: a tmpfs of the process's own, in its own mount namespace, filled before it
//! becomes visible, wiped and unmounted when the last of the sealed tree is gone.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, XattrFlags,
        fchmod, fchown, fgetxattr, fsetxattr, fstat, fstatvfs, mkdirat, openat, openat2, readlink,
        renameat, renameat_with, statat, unlinkat,
    },
    mount::{
        FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, fspick, mount_remount, move_mount, unmount,
    },
    process::fchdir,
};
use sidecar_common::policy::{Held, Vault as VaultOwner};
use zeroize::Zeroizing;

use super::{
    mountinfo::{self, SecretMount},
    views::{self, Views},
};
use crate::{config::FileAccess, limits, process::kernel_dev, secrets::Value};

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
/// How the names of replaced files begin, until they are wiped. (What reads folders of secrets leaves out names of two dots: the
/// kubelet has such.)
const OLD: &str = "..kernelseal-old-";
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

impl FileError {
    /// Whether it is for want of descriptors or memory.
    pub(super) fn is_for_lack(&self) -> bool {
        let Self::Step { cause, .. } = self;
        limits::is_for_lack(cause)
    }
}

pub(super) fn step<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> FileError {
    move |cause| FileError::Step {
        what: what.into(),
        cause: cause.into(),
        hint: "",
    }
}

/// The thread that delivers files: its own view of the file system, apart from its process's.
pub(crate) struct Mounter {
    views: Views,
}

/// A delivered directory, and how it is found again. It has no descriptor of ours: as many live as the kernel side has
/// places for.
pub(crate) struct Vault {
    id: FileSystem,
    /// The mount namespace that it is in.
    view: u64,
    /// Where it was mounted, from that namespace's root. It may lead elsewhere by now: `id` tells.
    path: Box<str>,
}

/// A file system, as the kernel tells one from all others. The device number is its own while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileSystem {
    /// In the kernel's encoding.
    dev: u32,
    /// By chance, and never again (5.13; before it 0).
    fsid: u64,
}

impl FileSystem {
    fn of(dir: impl AsFd) -> rustix::io::Result<Self> {
        let stat = fstat(&dir)?;
        Ok(Self {
            dev: kernel_dev(stat.st_dev),
            fsid: fstatvfs(&dir)?.f_fsid,
        })
    }
}

/// One of those directories, found and opened.
pub(crate) struct OpenVault {
    mount: OwnedFd,
}

impl Mounter {
    /// Takes note of where we live. To be called by the thread that it is for.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            views: Views::new()?,
        })
    }

    /// Delivers: writes the files, then makes them visible to the program. Tells the directory as the program sees it, too.
    pub(crate) fn mount(
        &mut self,
        held: &Held,
        files: &[SecretFile<'_>],
    ) -> Result<(Vault, String), FileError> {
        let mount = Self::prepare(held, files)?;
        self.attach(held, &mount)
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
    fn attach(&mut self, held: &Held, mount: &OwnedFd) -> Result<(Vault, String), FileError> {
        let id = FileSystem::of(mount).map_err(step("look at a tmpfs"))?;
        let namespace = views::namespace_of(held.pid).map_err(step("its mount namespace"))?;
        let root = openat(
            rustix::fs::CWD,
            format!("/proc/{}/root", held.pid),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(step("its root directory"))?;
        let above = path_of_root(&root).map_err(step("its root directory"))?;
        let parent = PLACE
            .iter()
            .try_fold(root, |dir, name| subdirectory(&dir, name))?;
        let (name, target) = free_place(&parent, held.own_pid)?;
        let seen = format!("{PLACE_PATH}/{name}");
        let vault = Vault {
            id,
            view: namespace.inode(),
            path: format!("{above}{seen}").into(),
        };
        self.views
            .within(&namespace, || {
                Ok(move_mount(
                    mount.as_fd(),
                    "",
                    target.as_fd(),
                    "",
                    MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
                )?)
            })
            .map_err(step("mount its secrets"))?;
        self.views.keep(namespace);
        Ok((vault, seen))
    }

    /// Whether a process is in a mount namespace that was not asked for before.
    pub(super) fn is_new_view(&mut self, pid: u32) -> bool {
        self.views.is_new_of(pid)
    }

    /// The directories of these device numbers that are mounted in a process's mount namespace; with their device numbers. What
    /// was found before an error is among them.
    pub(super) fn find_all(
        &mut self,
        pid: u32,
        is_wanted: impl Fn(u32) -> bool,
    ) -> io::Result<Vec<(u32, Vault)>> {
        let namespace = views::namespace_of(pid)?;
        let view = namespace.inode();
        let mut found = Vec::new();
        let views = &self.views;
        let looked = views.within(&namespace, || {
            views.mounts(|line| {
                let Some(mount) = SecretMount::parse(line, PLACE_PATH) else {
                    return;
                };
                if !is_wanted(mount.dev) {
                    return;
                }
                let path = mountinfo::unescaped(&mount.path);
                match at(&path).and_then(FileSystem::of) {
                    Ok(id) if id.dev == mount.dev => {
                        let path = path.into();
                        found.push((id.dev, Vault { id, view, path }));
                    }
                    other => tracing::debug!(mount = mount.id, path, "not found again: {other:?}"),
                }
            })
        });
        // (of a list that is too long, what comes first)
        if let Err(e) = looked {
            if found.is_empty() {
                return Err(e);
            }
            tracing::warn!(pid, "not all of its mounts are looked at: {e}");
        }
        for _ in &found {
            self.views.keep_another(&namespace);
        }
        Ok(found)
    }

    /// Opens a directory, wherever it is by now.
    pub(super) fn open(&self, vault: &Vault) -> io::Result<OpenVault> {
        let mut opened = None;
        self.views.within_kept(vault.view, || {
            opened = Some(self.find(vault)?);
            Ok(())
        })?;
        opened
            .map(|(mount, _)| OpenVault { mount })
            .ok_or_else(gone)
    }

    /// The same of one that the kernel side must guard as that tree's.
    pub(super) fn open_guarded(
        &self,
        vault: &Vault,
        seal: u64,
        guarded: &BTreeMap<u32, VaultOwner>,
    ) -> Result<OpenVault, FileError> {
        // (its number is its own while it is open)
        let opened = self.open(vault).map_err(step("find its secret files"))?;
        let owner = guarded.get(&vault.id.dev);
        if owner.is_some_and(|owner| owner.seal == seal) {
            return Ok(opened);
        }
        let cause = io::Error::other("the kernel side does not guard them");
        Err(step("find its secret files")(cause))
    }

    /// The mount of a directory, and its path, seen from the root of its mount namespace, in which we are.
    fn find(&self, vault: &Vault) -> io::Result<(OwnedFd, String)> {
        let is_it = |path: &str| -> Option<OwnedFd> {
            let found = at(path).ok()?;
            (FileSystem::of(&found).ok()? == vault.id).then_some(found)
        };
        if let Some(mount) = is_it(&vault.path) {
            return Ok((mount, vault.path.to_string()));
        }
        let mut found = None;
        self.views.mounts(|line| {
            if found.is_none()
                && let Some((dev, path)) = mountinfo::whole(line)
                && dev == vault.id.dev
            {
                found = is_it(&path).map(|mount| (mount, path));
            }
        })?;
        found.ok_or_else(gone)
    }

    /// Takes the mount away; what was mounted can be wiped still.
    pub(crate) fn remove(&mut self, vault: &Vault) -> io::Result<OpenVault> {
        let mut removed = None;
        let done = self.views.within_kept(vault.view, || {
            let (mount, path) = self.find(vault)?;
            let (parent, name) = path.rsplit_once('/').unwrap_or_default();
            let parent = at(parent)?;
            let unmounted = unmount_here(&mount);
            removed = Some(OpenVault { mount });
            unmounted?;
            match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                // The mount is gone, which counts. (The folder below it: taken away where it is
                // mounted too, or somebody has put something there.)
                Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY) => Ok(()),
                Err(e) => Err(e.into()),
            }
        });
        match (done, removed) {
            (Ok(()), Some(opened)) => Ok(opened),
            (Err(e), Some(opened)) => {
                // It is wiped all the same.
                tracing::warn!("secret files could not be taken away: {e}");
                Ok(opened)
            }
            (Err(e), None) => Err(e),
            (Ok(()), None) => Err(gone()),
        }
    }

    /// A directory is not needed any more.
    pub(super) fn forget(&mut self, vault: &Vault) {
        self.views.release(vault.view);
    }

    /// Looks for some of these mount namespaces. True if it has looked for all: one that was not found is gone, and with it
    /// what was mounted there alone.
    pub(super) fn look_for(&mut self, views: &[u64]) -> io::Result<bool> {
        let wanted = views.iter().copied().collect();
        self.views.look_for(&wanted)
    }

    /// What was found is not needed any more.
    pub(super) fn close_found(&mut self) {
        self.views.close_found();
    }

    /// No descriptor is kept of its mount namespace.
    pub(super) fn is_unknown(&self, vault: &Vault) -> bool {
        self.views.is_unknown(vault.view)
    }
}

/// Takes a mount away, in whose namespace we are.
fn unmount_here(mount: &OwnedFd) -> io::Result<()> {
    // By the mount itself, not by a path that may lead elsewhere by now.
    fchdir(mount)?;
    // Somebody may have made the mount read-only (mount_setattr(2) asks no hook): it would not be wiped.
    let as_made = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _ = mount_remount(".", MountFlags::BIND | as_made, "");
    let unmounted = unmount(".", UnmountFlags::DETACH);
    rustix::process::chdir("/")?;
    Ok(unmounted?)
}

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "it is not mounted any more, or something else is mounted over it",
    )
}

/// A directory, seen from our root, no link followed.
fn at(path: &str) -> rustix::io::Result<OwnedFd> {
    openat2(
        rustix::fs::CWD,
        if path.is_empty() { "/" } else { path },
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// What a process's root is below, in its mount namespace: nothing, unless it has a root of its own.
fn path_of_root(root: &OwnedFd) -> io::Result<String> {
    let here = fstat(root)?;
    let above = statat(root, "..", AtFlags::empty())?;
    if (here.st_dev, here.st_ino) == (above.st_dev, above.st_ino) {
        return Ok(String::new());
    }
    let path = readlink(format!("/proc/self/fd/{}", root.as_raw_fd()), Vec::new())?;
    // (where it is not what it says, the directory is looked for)
    Ok(path.into_string().unwrap_or_default())
}

impl Vault {
    /// Whether both are the same mount, or one of the same files in the same namespace.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.id, self.view) == (other.id, other.view)
    }

    /// The number of its mount namespace.
    pub(super) fn view(&self) -> u64 {
        self.view
    }
}

impl OpenVault {
    /// Replaces files, each at once: who opens one finds the old content or the new. What was there stays for who has it
    /// open, under a name that says so, until it is wiped ([`wipe_old`](Self::wipe_old)).
    pub(super) fn replace(&self, files: &[SecretFile<'_>]) -> Result<(), FileError> {
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
    pub(super) fn wipe_old(&self) -> io::Result<bool> {
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
        Ok(names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !name.starts_with(OLD))
            .collect())
    }

    /// The binding that a file is of; none where its delivery noted none.
    pub(super) fn binding_of(&self, name: &str) -> io::Result<Option<String>> {
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
