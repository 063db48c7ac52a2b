//! The secret files: each delivery has a tmpfs of its own, and the superblock says whose it is,
//! whatever path, namespace or descriptor led to the file.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use sidecar_common::{
    event::WHAT_FILE,
    layout::{MAX_VAULTS, VAULT_FILTER_SLOTS},
    policy::{Sealed, Vault},
};

use super::{Own, Reach, decide, procfs::short_name};
use crate::kernel::{Ptr, load, off};

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
    // SAFETY: copied at once; a device number is used again only after its vault is gone.
    let Some(vault) = (unsafe { VAULTS.get(dev) }).copied() else {
        return 0;
    };
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
