//! Where a file comes from: out of the image that a container was made of, or from whoever had the container since.
//!
//! A container's root is an overlay: the image's layers below, and one above that takes every change. A file that was never
//! changed has nothing there, and the overlay's inode tells. Some have an image that is a file system of its own, which nobody can
//! write. Either way it must be the mount that the container has as its root, and its runtime must have mounted it.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map, programs::RawTracePointContext,
};
use sidecar_common::{
    layout::MAX_FOREIGN,
    policy::SCOPE_POD,
    provenance::{CHANGED, FOREIGN, IN_LAYERS, IN_ROOT, READ_ONLY},
};

use crate::{
    kernel::{self, Ptr, follow, off, read},
    sealed,
};

/// `OVERLAYFS_SUPER_MAGIC` (uapi/linux/magic.h)
const OVERLAY: u64 = 0x794c_7630;
/// `EROFS_SUPER_MAGIC_V1`, `SQUASHFS_MAGIC` (uapi/linux/magic.h): there is no way to write them.
const NEVER_WRITTEN: [u64; 2] = [0xe0f5_e1e2, 0x7371_7368];

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
    let pid = kernel::pid_of(kernel::current());
    let Some((number, scope)) = sealed::scope_of(pid) else {
        return true; // a runtime, or somebody in a pod that no agent is in
    };
    // (a runtime may live where an agent of its node does)
    let is_below =
        scope.flags & SCOPE_POD != 0 || kernel::own_number(pid).namespace != number.namespace;
    !is_below || MOUNTED_BELOW.insert(sb, 0, 0).is_ok()
}

/// A file system is gone: its address will be another's.
#[inline(always)]
pub(crate) fn unmounted(sb: u64) {
    let _ = MOUNTED_BELOW.remove(sb);
}

/// For an agent: where the file comes from that a descriptor of its own leads to (`provenance::*`), of a process whose root another
/// leads to, and whose mount namespace has that number.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn provenance(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (file, root, namespace): (u32, u32, u32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let (file, root) = (kernel::own_file(file), kernel::own_file(root));
    let answer = of(file, follow(root, off!(file_mount)), namespace);
    // (an agent's user namespace is that of its node)
    let sb = follow(follow(file, off!(file_inode)), off!(inode_sb));
    let cred = follow(kernel::current(), off!(task_cred));
    if follow(sb, off!(sb_user_ns)) == follow(cred, off!(cred_user_ns)) {
        answer
    } else {
        answer | FOREIGN
    }
}

/// The same of a file that somebody reaches by a mount namespace of that number, the mount of his root being that.
#[inline(always)]
pub(crate) fn of(file: Ptr, root: Ptr, namespace: u32) -> u32 {
    let mount = follow(file, off!(file_mount));
    let is_in_root = !mount.is_null() && mount == root && namespace_of(mount) == namespace;
    let inode = follow(file, off!(file_inode));
    let sb = follow(inode, off!(inode_sb));
    // SAFETY: read at once.
    let is_mounted_below = unsafe { MOUNTED_BELOW.get(sb as u64) }.is_some();
    of_kind(inode, sb)
        | if is_in_root { IN_ROOT } else { 0 }
        | if is_mounted_below { FOREIGN } else { 0 }
}

/// The number of the mount namespace that a mount is in.
#[inline(always)]
fn namespace_of(mount: Ptr) -> u32 {
    let whole = mount.wrapping_sub(off!(mount_mnt));
    read(follow(whole, off!(mount_ns)), off!(mntns_inum))
}

#[inline(always)]
fn of_kind(inode: Ptr, sb: Ptr) -> u32 {
    let magic: u64 = read(sb, off!(sb_magic));
    if is_never_written(magic) {
        return READ_ONLY;
    }
    if magic != OVERLAY {
        return 0;
    }
    // Right behind the inode are what is above it and what is below (`ovl_inode` in fs/overlayfs/ovl_entry.h: since 4.13 the
    // dentry above, then `lower`, `lowerpath`, `oe`, none of which is null where there is something below). The overlay may be a
    // module, of whose types we know nothing.
    let (above, below) = (
        follow(inode, off!(inode_size)),
        follow(inode, off!(inode_size) + size_of::<Ptr>()),
    );
    if above.is_null() && is_of_kernel(below) {
        IN_LAYERS
    } else {
        IN_LAYERS | CHANGED
    }
}

/// Whether that may be an address of the kernel's: on both architectures these are the upper half.
#[inline(always)]
fn is_of_kernel(address: Ptr) -> bool {
    (address as i64) < 0
}
