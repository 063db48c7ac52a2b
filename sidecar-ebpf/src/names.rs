//! Which programs agents ask for, by the names they are executed by.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap},
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    macros::btf_map,
};
use sidecar_common::{
    layout::{MAX_BINDINGS, NAME_FILTER_SLOTS},
    name::{self, CHUNK, Chunk},
    policy::{BindingKey, ScopeId},
};

use crate::kernel::{Ptr, load, load_text, off};

/// By the names' last bytes: how many bindings there are. All that nearly every unmatched program
/// costs.
#[btf_map]
static NAME_FILTER: Array<u32, { NAME_FILTER_SLOTS as usize }> = Array::new();
#[btf_map]
static BINDINGS: HashMap<BindingKey, u64, MAX_BINDINGS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// False for most programs that no agent asks for; never for one that an agent does.
#[inline(always)]
pub(crate) fn may_be_asked_for(path: u64, dentry: Ptr) -> bool {
    // fexecve names a descriptor, a symlink its own name: ask for the file's own name too
    let (used, own) = (end_of_path(path), end_of_name(dentry));
    may_end_so(own) || (used != own && may_end_so(used))
}

/// The address of the name by which the scope's agent asks for it, if it does.
#[inline(always)]
pub(crate) fn asked_for(path: u64, dentry: Ptr, scope: ScopeId) -> Option<u64> {
    let is_bound = |name: &u64| {
        let key = BindingKey::new(scope, hash_name(*name));
        BINDINGS.get_ptr(key).is_some()
    };
    Some(last_component(path))
        .filter(is_bound)
        .or_else(|| Some(load_text!(dentry, dentry_name)).filter(is_bound))
}

/// False for most names that no agent asks for; never for one that an agent does. Asked by the
/// name's last bytes ([`name::end`]).
#[inline(always)]
fn may_end_so(end: u64) -> bool {
    NAME_FILTER
        .get(name::filter_slot(end))
        .is_none_or(|bindings| *bindings != 0)
}

/// The last bytes of a file's own name.
#[inline(always)]
fn end_of_name(dentry: Ptr) -> u64 {
    /// Names with their NUL of so many bytes are kept in the dentry (`DNAME_INLINE_LEN`; more since 6.12).
    const INLINE: u32 = 32;
    let length: u32 = load!(dentry, dentry_name_len);
    if length >= INLINE {
        return end_of_path(load_text!(dentry, dentry_name));
    }
    let word = |index: usize| -> u64 { load!(dentry.wrapping_add(8 * index), dentry_short_name) };
    let (before, last) = match length / 8 {
        0 => (0, word(0)),
        1 => (word(0), word(1)),
        2 => (word(1), word(2)),
        _ => (word(2), word(3)),
    };
    name::last_eight(before, last, length % 8)
}

/// Text at an address; zeros from where it cannot be read.
#[inline(always)]
fn read_text(at: u64) -> Chunk {
    // Not zeroed first: that is a call to a loop over bytes.
    let mut chunk = MaybeUninit::<Chunk>::uninit();
    let (to, at) = (chunk.as_mut_ptr().cast(), at as *const _);
    // SAFETY: the helpers check the address. The first writes every byte, zeros where it fails:
    // it reads past the text's end, where there may be nothing. The second stops at the end.
    unsafe {
        if bpf_probe_read_kernel(to, CHUNK as u32, at) != 0 {
            bpf_probe_read_kernel_str(to, CHUNK as u32, at);
        }
        chunk.assume_init()
    }
}

/// The address of the NUL of a text of at most `PATH_MAX` bytes.
#[inline(always)]
fn end_of_text(text: u64) -> u64 {
    const PATH_MAX: usize = 4096;
    const PART: usize = 128;
    let mut at = text;
    // (each part's last byte is a NUL of the helper's)
    for _ in 0..PATH_MAX / (PART - 1) + 1 {
        let mut part = MaybeUninit::<[u8; PART]>::uninit();
        // SAFETY: the helper checks the address.
        let copied = unsafe {
            bpf_probe_read_kernel_str(part.as_mut_ptr().cast(), PART as u32, at as *const _)
        };
        at += PART as u64 - 1;
        if copied != PART as i64 {
            return (at - PART as u64).wrapping_add(copied as u64);
        }
    }
    at
}

// Exported functions with scalar arguments, because those are verified once (5.6).

/// The address of the last component of the NUL-terminated path at `path`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn last_component(path: u64) -> u64 {
    name::last_component(path, read_text, end_of_text)
}

/// The hash of the NUL-terminated name at `name`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_name(name: u64) -> u64 {
    name::hash_at(name, read_text)
}

/// The last bytes of the last component of the NUL-terminated path at `path`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_of_path(path: u64) -> u64 {
    name::end_of_path(path, read_text, end_of_text)
}
