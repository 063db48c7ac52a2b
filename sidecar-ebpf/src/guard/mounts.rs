//! The secret files stay where they are: nobody else in the pod unmounts them, mounts over them or moves
//! them away. (Opening them is guarded wherever they are: [`super::files`].)

use aya_ebpf::{macros::lsm, programs::LsmContext};
use sidecar_common::{event::AccessKind, proof::Proof};

use super::{files, self_test::fired};
use crate::{
    kernel::{Ptr, load},
    sealed,
};

/// mount(2) at a path: on top of it, or with other flags.
#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    fired(Proof::Mount);
    at(ctx.arg(1))
}

/// move_mount(2) from a path to a path.
#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    match at(ctx.arg(0)) {
        0 => at(ctx.arg(1)),
        refused => refused,
    }
}

/// umount(2)
#[lsm(hook = "sb_umount")]
pub fn sb_umount(ctx: LsmContext) -> i32 {
    let mount: Ptr = ctx.arg(0);
    of(load!(mount, vfsmount_sb))
}

/// A file system with other options.
#[lsm(hook = "sb_remount")]
pub fn sb_remount(ctx: LsmContext) -> i32 {
    of(ctx.arg(0))
}

#[inline(always)]
fn at(path: Ptr) -> i32 {
    let dentry: Ptr = load!(path, path_dentry);
    of(load!(dentry, dentry_sb))
}

#[inline(always)]
fn of(sb: Ptr) -> i32 {
    match files::vault(sb) {
        Some(vault) if sealed::is_neighbour(vault.scope) => {
            files::reach(vault, AccessKind::Named, *b"mount\0\0\0\0\0\0\0\0\0\0\0")
        }
        _ => 0,
    }
}
