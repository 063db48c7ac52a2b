//! File systems that have nothing to guard, remembered by their superblock: a look into this table
//! is all that an ordinary open costs.
//!
//! A superblock is what it is from before its first open to its end: it becomes a vault when it is
//! made ([`super::files::sb_kern_mount`]), and is forgotten before its address is used again
//! ([`super::files::sb_free_security`]).

use core::arch::asm;

use sidecar_common::layout::PLAIN_SLOTS;

use crate::kernel::Ptr;

/// Superblocks by a few bits of their address. A global, because a map of the verifier's kind costs
/// a dozen instructions more. Loads and stores of 64 bits are atomic on both architectures.
static mut PLAIN: [u64; PLAIN_SLOTS] = [0; PLAIN_SLOTS];

/// log2 of the size that superblocks are allocated in (`struct super_block` is between 1 and 2 KiB).
const ALIGNMENT: u32 = 11;

/// Bytes of an entry.
const ENTRY: usize = size_of::<u64>();

/// The place of a superblock in the table.
#[inline(always)]
fn slot(sb: Ptr) -> *mut u64 {
    let index: u32;
    // SAFETY: works on registers. Of a pointer's lower half, and of that only, the verifier makes a
    // plain number.
    unsafe {
        asm!("{0} = {1}", lateout(wreg) index, in(wreg) sb as u32,
            options(pure, nomem, nostack, preserves_flags));
    }
    // One shift for the bits and for the size of an entry.
    let at = (index >> (ALIGNMENT - ENTRY.ilog2())) as usize & ((PLAIN_SLOTS - 1) * ENTRY);
    (&raw mut PLAIN).wrapping_byte_add(at).cast()
}

/// Whether it was remembered.
#[inline(always)]
pub(super) fn is(sb: Ptr) -> bool {
    // SAFETY: within the table.
    unsafe { slot(sb).read_volatile() == sb as u64 }
}

/// Remembers it; the one whose place it takes is looked at again.
#[inline(always)]
pub(super) fn remember(sb: Ptr) {
    // SAFETY: within the table.
    unsafe { slot(sb).write_volatile(sb as u64) }
}

/// Forgets it: its address will be another's.
#[inline(always)]
pub(super) fn forget(sb: Ptr) {
    if is(sb) {
        // SAFETY: within the table.
        unsafe { slot(sb).write_volatile(0) }
    }
}
