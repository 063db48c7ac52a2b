//! The secret files: each delivery has a tmpfs of its own, and the superblock says whose it is,
//! whatever path, namespace or descriptor led to the file.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::HashMap,
    macros::{btf_map, lsm},
    programs::LsmContext,
};
use sidecar_common::{
    event::AccessKind,
    layout::{COMM_LEN, MAX_SCOPES, MAX_VAULTS, MAX_WORKERS},
    policy::{Maker, ScopeFlags, Sealed, SealedFlags, Vault},
};

use super::{AccessRequest, SelfAccess, decide, procfs::short_name, unguarded_sb};
use crate::{
    kernel::{self, Ptr, follow, load, off},
    provenance, sealed,
};

#[btf_map]
static VAULTS: HashMap<u64, Vault, MAX_VAULTS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// For which seal an agent's thread makes a tmpfs just now.
#[btf_map]
static MOUNTING: HashMap<Maker, u64, { MAX_SCOPES * MAX_WORKERS }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// An agent makes a file system: before there is a file in it, it is for one tree only. The agent
/// makes no others, so nothing is asked of its kind.
#[lsm(hook = "sb_kern_mount")]
pub fn sb_kern_mount(ctx: LsmContext) -> i32 {
    let sb: Ptr = ctx.arg(0);
    let Some(actor) = sealed::current().filter(|actor| actor.flags.contains(SealedFlags::AGENT))
    else {
        if provenance::mounted(kernel::untyped(sb as u64)) {
            return 0;
        }
        return kernel::eperm();
    };
    let thread = follow(kernel::current(), off!(task_thread_pid));
    let maker = Maker {
        scope: actor.scope,
        thread: kernel::own_number(thread).nr,
    };
    // SAFETY: copied at once. Nobody carries 0.
    let seal = unsafe { MOUNTING.get(maker) }.copied().unwrap_or(0);
    let vault = Vault {
        seal,
        scope: actor.scope,
        dev: load!(sb, sb_dev),
    };
    sealed::tree_has_files(seal);
    if VAULTS
        .insert(kernel::untyped(sb as u64), &vault, 0)
        .is_err()
    {
        return kernel::eperm();
    }
    0
}

/// Whose secrets a tmpfs has, if any.
#[inline(always)]
pub(super) fn vault(sb: Ptr) -> Option<Vault> {
    // SAFETY: copied at once; the entry is there until the superblock is gone.
    unsafe { VAULTS.get(kernel::untyped(sb as u64)) }.copied()
}

/// An open of a secret file.
#[inline(always)]
pub(super) fn open(file: Ptr, vault: Vault) -> i32 {
    reach(
        vault,
        AccessKind::SecretFile,
        short_name(load!(file, file_dentry)),
    )
}

/// Somebody reaches for secret files: only their tree may.
#[inline(always)]
pub(super) fn reach(vault: Vault, what: AccessKind, name: [u8; COMM_LEN]) -> i32 {
    decide(&AccessRequest {
        sealed: Sealed {
            seal: vault.seal,
            start_ns: 0,
            scope: vault.scope,
            flags: SealedFlags::empty(),
        },
        task: core::ptr::null(),
        tgid: 0,
        what,
        guarded_by: ScopeFlags::empty(),
        own: SelfAccess::Always,
        name,
    })
}

/// A file system ends, and what is known of its superblock with it.
#[lsm(hook = "sb_free_security")]
pub fn sb_free_security(ctx: LsmContext) -> i32 {
    let sb: Ptr = ctx.arg(0);
    unguarded_sb::forget(sb);
    let _ = VAULTS.remove(kernel::untyped(sb as u64));
    provenance::unmounted(kernel::untyped(sb as u64));
    0
}
