//! What the guard proves itself by: see [`sidecar_common::proof`].

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sidecar_common::proof::{PROOFS, Proof};

use crate::{kernel, sealed};

/// How often each hook ran for a deed of an agent's own.
#[btf_map]
static FIRED: Array<u64, PROOFS> = Array::new();

/// Counts that a hook ran, if it is an agent that made it run.
#[inline(always)]
pub(crate) fn fired(proof: Proof) {
    count_for_agent(proof as u32);
}

// Exported, because functions with scalar arguments are verified once (5.6).

/// [`fired`], by the proof's number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_for_agent(proof: u32) -> u32 {
    if !sealed::is_agent() {
        return 0;
    }
    if let Some(count) = FIRED.get_ptr_mut(proof) {
        // SAFETY: a live map value.
        unsafe { kernel::add(count, 1) };
    }
    1
}
