//! The secret files: each delivery has a tmpfs of its own, and the superblock says whose it is,
//! whatever path, namespace or descriptor led to the file.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap},
    macros::{btf_map, lsm},
    programs::LsmContext,
};
use sidecar_common::{
    event::WHAT_FILE,
    layout::{MAX_VAULTS, VAULT_FILTER_SLOTS},
    policy::{Sealed, Vault},
};

use super::{Own, Reach, decide, procfs::short_name};
use crate::{
    kernel::{self, Ptr, load, off},
    sealed,
};

#[btf_map]
static VAULTS: HashMap<u32, Vault, MAX_VAULTS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// By device number: zero where no vault was ever. Agents set slots and never clear them.
#[btf_map]
static VAULT_FILTER: Array<u32, { VAULT_FILTER_SLOTS as usize }> = Array::new();

/// An open of a file in some tmpfs.
#[inline(always)]
pub(super) fn open(file: Ptr, sb: Ptr) -> i32 {
    let dev: u32 = load(sb, off!(sb_dev));
    if VAULT_FILTER
        .get(dev % VAULT_FILTER_SLOTS)
        .is_none_or(|slot| *slot == 0)
    {
        return 0;
    }
    open_in_vault(file, sb, dev)
}

/// Apart from the hook itself, so that most opens do not pay for its registers and its stack.
#[inline(never)]
fn open_in_vault(file: Ptr, sb: Ptr, dev: u32) -> i32 {
    let Some(entry) = VAULTS.get_ptr_mut(dev) else {
        return 0;
    };
    // SAFETY: a live map value; only its agent, which is here then, enters the address.
    let vault = unsafe { &mut *entry };
    if vault.superblock == 0
        && sealed::scope(vault.scope).is_some_and(|scope| scope.agent == kernel::current_tgid())
    {
        vault.superblock = sb as u64;
    }
    if vault.superblock != sb as u64 {
        return 0; // the number is another file system's by now
    }
    decide(&Reach {
        sealed: Sealed {
            seal: vault.seal,
            start_ns: 0,
            scope: vault.scope,
            flags: 0,
        },
        task: core::ptr::null(),
        tgid: 0,
        what: WHAT_FILE,
        guarded_by: 0,
        own: Own::Always,
        name: short_name(load(file, off!(file_dentry))),
    })
}

/// A vault's file system is gone, and with it the entry. The number may have a new one already;
/// the address, which is still held here, cannot.
#[lsm(hook = "sb_free_security")]
pub fn sb_free_security(ctx: LsmContext) -> i32 {
    let sb: Ptr = ctx.arg(0);
    let dev: u32 = load(sb, off!(sb_dev));
    // SAFETY: read at once.
    if unsafe { VAULTS.get(dev) }.is_some_and(|vault| vault.superblock == sb as u64) {
        let _ = VAULTS.remove(dev);
    }
    0
}
