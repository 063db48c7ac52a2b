//! Delivery as files: a tmpfs of the process's own, in its own mount namespace, filled before it
//! becomes visible, wiped and unmounted when the last of the sealed tree is gone.

mod contents;
mod file;
mod place;

use std::{
    collections::BTreeMap,
    io::{self},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, fstat, fstatvfs, openat, unlinkat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};
use sidecar_common::policy::{Held, Vault as VaultOwner};

pub(super) use self::file::{FileError, SecretFile, step};
use self::{
    contents::{make_read_only, write},
    file::Access,
    place::{at, free_place, gone, path_of_root, subdirectory, unmount_here},
};
use super::{
    mountinfo::{self, SecretMount},
    views::{self, Views},
};
use crate::process::kernel_dev;

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
    /// Takes note of where we live. To be called by the thread that it is for, which is one of so many.
    pub(crate) fn new(of: usize) -> io::Result<Self> {
        Ok(Self {
            views: Views::new(of)?,
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
        let closed = fsconfig_set_flag(context.as_fd(), READ_ONLY)
            .and_then(|()| fsconfig_reconfigure(context.as_fd()));
        make_read_only(mount.as_fd(), closed).map_err(step("make a tmpfs read-only"))?;
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
