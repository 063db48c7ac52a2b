//! Where a file comes from: out of the image that a container was made of, or from whoever had the container since.
//!
//! A container's root is an overlay: the image's layers below, and one above that takes every change. A file that was never
//! changed has nothing there, and the overlay's inode tells. Some have an image that is a file system of its own, which nobody can
//! write. Either way it must be the mount that the container has as its root, and its runtime must have mounted it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map, programs::RawTracePointContext,
};
use sidecar_common::{layout::MAX_FOREIGN, policy::ScopeFlags, provenance::FileOrigin};

use crate::{
    kernel::{self, Ptr, field, follow, load, off, read},
    sealed,
};

/// `OVERLAYFS_SUPER_MAGIC` (uapi/linux/magic.h)
const OVERLAY: u64 = 0x794c_7630;
/// `EROFS_SUPER_MAGIC_V1`, `SQUASHFS_MAGIC` (uapi/linux/magic.h): there is no way to write them.
const NEVER_WRITTEN: [u64; 2] = [0xe0f5_e1e2, 0x7371_7368];

/// `FUSE_SUPER_MAGIC` (uapi/linux/magic.h)
const FUSE: u64 = 0x6573_5546;
/// Who may write, beside the owner (uapi/linux/stat.h).
const WRITE_BY_OTHERS: u16 = 0o022;
/// `S_IFMT`, `S_IFLNK` (uapi/linux/stat.h).
const KIND: u16 = 0o170_000;
const LINK: u16 = 0o120_000;

/// Superblocks of such file systems that somebody mounted from below a scope.
#[btf_map]
static MOUNTED_BELOW: HashMap<u64, u8, MAX_FOREIGN, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[inline(always)]
fn is_never_written(magic: u64) -> bool {
    magic == NEVER_WRITTEN[0] || magic == NEVER_WRITTEN[1]
}

/// A file system is mounted for the first time. False where it could not be noted that nobody is to take it for an image.
#[inline(always)]
pub(crate) fn mounted(sb: u64) -> bool {
    let magic: u64 = read(sb as Ptr, off!(sb_magic));
    if magic != OVERLAY && !is_never_written(magic) {
        return true;
    }
    let pid = kernel::own_pid();
    let Some((number, scope)) = sealed::scope_of(pid) else {
        return true; // a runtime, or somebody in a pod that no agent is in
    };
    // (a runtime may live where an agent of its node does)
    let is_below = scope.flags.contains(ScopeFlags::POD)
        || kernel::own_number(pid).namespace != number.namespace;
    !is_below || MOUNTED_BELOW.insert(sb, 0, 0).is_ok()
}

/// A file system is gone: its address will be another's.
#[inline(always)]
pub(crate) fn unmounted(sb: u64) {
    let _ = MOUNTED_BELOW.remove(sb);
}

/// For an agent: where the file comes from that a descriptor of its own leads to ([`FileOrigin`]), of a process whose root another
/// leads to, and whose mount namespace has that number.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn provenance(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (file, root, namespace): (u32, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let (file, root) = (kernel::own_file(file), kernel::own_file(root));
    let file = Reached::read(file);
    let answer = of(&file, follow(root, off!(file_mount)), namespace);
    answer.bits() | roots_alone(file.mount as u64, file.dentry as u64, namespace)
}

/// A file, by addresses of whose types the verifier knows nothing.
struct Reached {
    mount: Ptr,
    dentry: Ptr,
    inode: Ptr,
    sb: Ptr,
}

impl Reached {
    #[inline(always)]
    fn read(file: Ptr) -> Self {
        let inode = follow(file, off!(file_inode));
        Self {
            mount: follow(file, off!(file_mount)),
            dentry: follow(file, off!(file_dentry)),
            inode,
            sb: follow(inode, off!(inode_sb)),
        }
    }

    /// The same of a file whose type the verifier knows.
    #[inline(always)]
    fn load(file: Ptr) -> Self {
        let inode: Ptr = load!(file, file_inode);
        let untyped = |address: u64| kernel::untyped(address) as Ptr;
        Self {
            mount: untyped(load!(file, file_mount)),
            dentry: untyped(load!(file, file_dentry)),
            inode: untyped(inode as u64),
            sb: untyped(load!(inode, inode_sb)),
        }
    }
}

/// The same of a file that the running task reaches, but for who may write it.
#[inline(always)]
pub(crate) fn of_own(file: Ptr) -> FileOrigin {
    of(&Reached::read(file), own_root(), own_namespace())
}

/// The same of a file that the running task executes, and whose type the verifier knows.
#[inline(always)]
pub(crate) fn of_executed(file: Ptr) -> FileOrigin {
    let file = Reached::load(file);
    let namespace = own_namespace();
    let answer = roots_alone(file.mount as u64, file.dentry as u64, namespace);
    of(&file, own_root(), namespace) | FileOrigin::from_bits_retain(answer)
}

/// The mount of the running task's root.
#[inline(always)]
fn own_root() -> Ptr {
    let fs = field!(kernel::own_task(), task_fs as usize) as Ptr;
    kernel::untyped(field!(fs, fs_root_mount as u64)) as Ptr
}

/// The number of the running task's mount namespace.
#[inline(always)]
fn own_namespace() -> u32 {
    let proxy = field!(kernel::own_task(), task_nsproxy as usize) as Ptr;
    let namespace = field!(proxy, nsproxy_mount as usize) as Ptr;
    field!(namespace, mntns_inum as u32)
}

/// The same of a file that somebody reaches by a mount namespace of that number, the mount of his root being that.
#[inline(always)]
fn of(file: &Reached, root: Ptr, namespace: u32) -> FileOrigin {
    let Reached {
        mount, inode, sb, ..
    } = *file;
    let is_in_root = !mount.is_null() && mount == root && namespace_of(mount) == namespace;
    // SAFETY: read at once.
    let is_foreign = is_of_other_users(sb) || unsafe { MOUNTED_BELOW.get(sb as u64) }.is_some();
    let mut origin = of_kind(inode, sb);
    origin.set(FileOrigin::IN_ROOT, is_in_root);
    origin.set(FileOrigin::FOREIGN, is_foreign);
    origin
}

/// Whether a file system was mounted in a user namespace that is not its node's, which an agent's is: the first. It says what its
/// owner likes, be it an overlay over something of his.
#[inline(always)]
fn is_of_other_users(sb: Ptr) -> bool {
    let users = follow(sb, off!(sb_user_ns));
    users.is_null() || !follow(users, off!(userns_parent)).is_null()
}

/// Whether a name of this dentry's is still there: not where it was deleted, or never had one. The verifier knows its type.
#[inline(always)]
pub(crate) fn is_named(dentry: Ptr) -> bool {
    load!(dentry, dentry_hashed as usize) != 0
}

/// [`FileOrigin::ROOTS_ALONE`] of a file that is reached in a mount namespace of that number, or nothing; that, too, where it
/// lies deeper than is looked.
// (exported, with scalar arguments: it is verified once)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn roots_alone(mount: u64, dentry: u64, namespace: u32) -> u32 {
    /// Folders, and mounts, above a file.
    const DEEPEST: u32 = 32;
    let (mut mount, mut dentry) = (Mount::read(mount as Ptr), dentry as Ptr);
    if dentry == mount.root {
        return 0; // it is mounted there itself
    }
    let idmap = mount.idmap;
    // (what something is mounted on nobody sees)
    let mut is_covered = false;
    let mut trusted = core::ptr::null();
    for _ in 0..DEEPEST {
        let (inode, parent) = inode_and_parent(dentry);
        if !is_covered {
            // (a number of an inode's user is one in all mounts, or means nothing here)
            if is_open_to_others(inode) || mount.idmap != idmap {
                return 0;
            }
            // All that a mount shows is of one file system.
            if mount.sb.is_null() || mount.sb != trusted {
                if is_told_by_others(mount.sb) {
                    return 0;
                }
                trusted = mount.sb;
            }
        }
        is_covered = dentry == mount.root;
        if !is_covered {
            dentry = parent;
            continue;
        }
        let whole = mount.address.wrapping_sub(off!(mount_mnt));
        let above = follow(whole, off!(mount_parent));
        if above == whole {
            return if namespace_of(mount.address) == namespace {
                FileOrigin::ROOTS_ALONE.bits()
            } else {
                0
            };
        }
        dentry = follow(whole, off!(mount_point));
        mount = Mount::read(above.wrapping_add(off!(mount_mnt)));
    }
    0
}

/// A mount (`struct vfsmount`).
struct Mount {
    address: Ptr,
    root: Ptr,
    sb: Ptr,
    /// How it maps users, of a kernel that can do that.
    idmap: Ptr,
}

impl Mount {
    /// Reads it at once where its fields lie as they do on every kernel so far: each look costs as much as twenty loads.
    #[inline(always)]
    fn read(address: Ptr) -> Self {
        const WORD: usize = size_of::<Ptr>();
        let [root, sb, idmap] = match (off!(vfsmount_sb), off!(vfsmount_idmap)) {
            (WORD, idmap) if off!(vfsmount_root) == 0 && (idmap == 0 || idmap == 3 * WORD) => {
                let [root, sb, _, third]: [usize; 4] = read(address, 0);
                [root, sb, if idmap == 0 { 0 } else { third }]
            }
            (sb, idmap) => [
                read(address, off!(vfsmount_root)),
                read(address, sb),
                if idmap == 0 { 0 } else { read(address, idmap) },
            ],
        };
        Self {
            address,
            root: root as Ptr,
            sb: sb as Ptr,
            idmap: idmap as Ptr,
        }
    }
}

/// What a dentry names, and the folder it lies in: read at once, likewise.
#[inline(always)]
fn inode_and_parent(dentry: Ptr) -> (Ptr, Ptr) {
    const WORD: usize = size_of::<Ptr>();
    if off!(dentry_inode) == off!(dentry_parent) + 3 * WORD {
        let [parent, _, _, inode]: [usize; 4] = read(dentry, off!(dentry_parent));
        return (inode as Ptr, parent as Ptr);
    }
    (
        follow(dentry, off!(dentry_inode)),
        follow(dentry, off!(dentry_parent)),
    )
}

/// Whether somebody who is not root may write there. (An access control list's mask shows as the group's rights. A symbolic link
/// has no mode of its own: who may change it is a matter of its folder.)
#[inline(always)]
fn is_open_to_others(inode: Ptr) -> bool {
    let (mode, user) = if off!(inode_uid) == off!(inode_mode) + size_of::<u32>() {
        let [mode, user]: [u32; 2] = read(inode, off!(inode_mode));
        (mode as u16, user)
    } else {
        (read(inode, off!(inode_mode)), read(inode, off!(inode_uid)))
    };
    // (no file is of no kind: that could not be read)
    let kind = mode & KIND;
    kind == 0 || (kind != LINK && mode & WRITE_BY_OTHERS != 0) || user != 0
}

/// Whether somebody who is not root says what a file system has.
#[inline(always)]
fn is_told_by_others(sb: Ptr) -> bool {
    read::<u64>(sb, off!(sb_magic)) == FUSE || is_of_other_users(sb)
}

/// The number of the mount namespace that a mount is in.
#[inline(always)]
fn namespace_of(mount: Ptr) -> u32 {
    let whole = mount.wrapping_sub(off!(mount_mnt));
    read(follow(whole, off!(mount_ns)), off!(mntns_inum))
}

#[inline(always)]
fn of_kind(inode: Ptr, sb: Ptr) -> FileOrigin {
    let magic: u64 = read(sb, off!(sb_magic));
    if is_never_written(magic) {
        return FileOrigin::READ_ONLY;
    }
    if magic != OVERLAY {
        return FileOrigin::empty();
    }
    // Right behind the inode are what is above it and what is below (`ovl_inode` in fs/overlayfs/ovl_entry.h: since 4.13 the
    // dentry above, then `lower`, `lowerpath`, `oe`, none of which is null where there is something below). The overlay may be a
    // module, of whose types we know nothing.
    let (above, below) = (
        follow(inode, off!(inode_size)),
        follow(inode, off!(inode_size) + size_of::<Ptr>()),
    );
    if above.is_null() && is_of_kernel(below) {
        FileOrigin::IN_LAYERS
    } else {
        FileOrigin::IN_LAYERS | FileOrigin::CHANGED
    }
}

/// Whether that may be an address of the kernel's: on both architectures these are the upper half.
#[inline(always)]
fn is_of_kernel(address: Ptr) -> bool {
    (address as i64) < 0
}
