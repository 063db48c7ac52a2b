//! The code that sealed programs run beside their own: of some, all of it must come from their container's image.
//!
//! Attached only where an agent has a binding that asks for it: every mapping of a file on the node comes through here.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::HashMap,
    macros::{btf_map, lsm},
    programs::LsmContext,
};
use sidecar_common::{
    event::AccessKind,
    layout::{COMM_LEN, MAX_SEALED},
    policy::ScopeFlags,
};

use super::{AccessRequest, SelfAccess, decide};
use crate::{
    kernel::{self, Ptr},
    provenance, sealed,
};

/// Trees that run only what is in the image, by seal.
#[btf_map]
static IMAGE_ONLY: HashMap<u64, u8, MAX_SEALED, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

const MAPPING: [u8; COMM_LEN] = *b"executable_map\0\0";

/// mmap(2), and what an exec maps.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    /// `PROT_EXEC` (uapi/asm-generic/mman-common.h)
    const EXECUTE: u64 = 4;
    let protection: u64 = ctx.arg(2);
    if protection & EXECUTE == 0 || !sealed::may_be_sealed(kernel::current_tgid()) {
        return 0;
    }
    // (null for memory that is no file's; a plain number, for the verifier knows that on some kernels only)
    let file: u64 = ctx.arg(0);
    maps_code(kernel::untyped(file) as Ptr)
}

#[inline(never)]
fn maps_code(file: Ptr) -> i32 {
    let Some(now) = sealed::current() else {
        return 0;
    };
    // SAFETY: read at once.
    if file.is_null() || unsafe { IMAGE_ONLY.get(now.seal) }.is_none() {
        return 0;
    }
    let task = kernel::current();
    if provenance::of_own(file).is_of_image() {
        return 0;
    }
    decide(&AccessRequest {
        sealed: now,
        task,
        tgid: kernel::current_tgid(),
        what: AccessKind::Named,
        guarded_by: ScopeFlags::empty(),
        own: SelfAccess::Never,
        name: MAPPING,
    })
}

/// A tree ends.
#[inline(always)]
pub(crate) fn forget(seal: u64) {
    let _ = IMAGE_ONLY.remove(seal);
}
