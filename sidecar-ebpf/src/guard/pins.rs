//! The pins, on which hooks and maps hang: below the node nobody but an agent takes them away, renames them or changes
//! their mode, whatever path or descriptor leads there. And descriptors of what is pinned, which the kernel gives by number.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map, macros::lsm,
    programs::LsmContext,
};
use sidecar_common::{
    layout::{COMM_LEN, MAX_OWN_OBJECTS},
    policy::{ObjectKind, OwnObject},
};

use super::{
    kernel_files::{climb, depth_of, name_at},
    kernel_interfaces,
    procfs::name,
};
use crate::{
    kernel::{self, Ptr, follow, load, off, read},
    sealed,
};

/// `BPF_FS_MAGIC` (uapi/linux/magic.h)
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// The folder below the file system's root that all pins are in.
const FOLDER: u128 = name(b"kernelseal");
const PINS: [u8; COMM_LEN] = *b"pins\0\0\0\0\0\0\0\0\0\0\0\0";
const BPF: [u8; COMM_LEN] = *b"bpf\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// What is ours, of every kind.
#[btf_map]
static OWN_OBJECTS: HashMap<OwnObject, u8, MAX_OWN_OBJECTS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// unlink(2)
#[lsm(hook = "inode_unlink")]
pub fn inode_unlink(ctx: LsmContext) -> i32 {
    changed(ctx.arg(1))
}

/// rmdir(2)
#[lsm(hook = "inode_rmdir")]
pub fn inode_rmdir(ctx: LsmContext) -> i32 {
    changed(ctx.arg(1))
}

/// rename(2), of a pin or on top of one.
#[lsm(hook = "inode_rename")]
pub fn inode_rename(ctx: LsmContext) -> i32 {
    match changed(ctx.arg(1)) {
        0 => changed(ctx.arg(3)),
        refused => refused,
    }
}

/// chmod(2), chown(2)
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    if off!(setattr_has_idmap) != 0 {
        changed(ctx.arg(1))
    } else {
        changed(ctx.arg(0))
    }
}

/// A file or folder is about to go, to get another name or another mode.
#[inline(always)]
fn changed(dentry: Ptr) -> i32 {
    let sb: Ptr = load!(dentry, dentry_sb);
    if load!(sb, sb_magic as u64) == BPF_FS_MAGIC {
        changed_in_bpf_fs(dentry)
    } else {
        0
    }
}

#[inline(never)]
fn changed_in_bpf_fs(dentry: Ptr) -> i32 {
    // (what is loaded is renamed to a version that is not there yet)
    let is_there = !follow(dentry, off!(dentry_inode)).is_null();
    if is_there && is_of_nobody_below() && is_pin(kernel::untyped(dentry as u64)) != 0 {
        kernel_interfaces::refuse_below_node(&PINS)
    } else {
        0
    }
}

/// Whether the running process lives below the node and is no agent.
#[inline(always)]
fn is_of_nobody_below() -> bool {
    kernel::level_of(kernel::own_pid()) != 0 && !sealed::is_agent()
}

/// Whether it is the folder of pins, a version's folder in it, or a pin of that version. (What is being loaded has no
/// version's name yet, and who loads it is no agent yet.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_pin(dentry: u64) -> u32 {
    /// A pin's path has so many components.
    const OF_A_PIN: u32 = 3;
    let depth = depth_of(dentry);
    if depth == 0 || depth > OF_A_PIN {
        return 0;
    }
    let folder = name_at(climb(dentry, depth - 1) as Ptr);
    if u128::from_ne_bytes(folder) != FOLDER {
        return 0;
    }
    // `v` and a number, unlike what is being loaded
    let version = name_at(climb(dentry, depth.saturating_sub(2)) as Ptr);
    let is_version = version[0] == b'v'
        && version[1].is_ascii_digit()
        && (version[2] == 0 || version[2].is_ascii_digit());
    u32::from(depth == 1 || is_version)
}

/// Somebody asks bpf(2) for a descriptor by number.
#[inline(always)]
pub(super) fn asked_for_by_id(command: u32, attributes: Ptr) -> i32 {
    /// `BPF_PROG_GET_FD_BY_ID`, `BPF_MAP_GET_FD_BY_ID`, `BPF_LINK_GET_FD_BY_ID` (uapi/linux/bpf.h)
    const PROGRAM: u32 = 13;
    const MAP: u32 = 14;
    const LINK: u32 = 30;
    let kind = match command {
        PROGRAM => ObjectKind::Program,
        MAP => ObjectKind::Map,
        LINK => ObjectKind::Link,
        _ => return 0,
    };
    // (the first word of what is asked, whatever of)
    given(kind, read(attributes, 0))
}

/// A descriptor of a map is made: by number, by its pin, or with the map.
#[lsm(hook = "bpf_map")]
pub fn bpf_map(ctx: LsmContext) -> i32 {
    let map: Ptr = ctx.arg(0);
    pinned_given(ObjectKind::Map, load!(map, map_id))
}

/// The same of a program.
#[lsm(hook = "bpf_prog")]
pub fn bpf_prog(ctx: LsmContext) -> i32 {
    let program: Ptr = ctx.arg(0);
    let aux: Ptr = load!(program, prog_aux);
    pinned_given(ObjectKind::Program, load!(aux, prog_aux_id))
}

/// Who was started from outside of a PID namespace that has no agent may be the one that begins.
#[inline(always)]
fn pinned_given(kind: ObjectKind, id: u32) -> i32 {
    if is_own(kind, id) && is_of_nobody_below() && !kernel_interfaces::may_begin() {
        kernel_interfaces::refuse_below_node(&BPF)
    } else {
        0
    }
}

#[inline(always)]
fn given(kind: ObjectKind, id: u32) -> i32 {
    if is_own(kind, id) && is_of_nobody_below() {
        kernel_interfaces::refuse_below_node(&BPF)
    } else {
        0
    }
}

#[inline(always)]
fn is_own(kind: ObjectKind, id: u32) -> bool {
    let object = OwnObject {
        kind: kind as u32,
        id,
    };
    // SAFETY: read at once.
    unsafe { OWN_OBJECTS.get(object) }.is_some()
}
