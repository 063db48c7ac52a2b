//! What the agent wants to hear of, as far as it can be told here: all but containers' names.

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use sidecar_common::network::{Address, MAX_CIDRS, ONLY_CIDRS, ONLY_PORTS, PORT_WORDS, Settings};
use sidecar_ebpf::monitor::Shared;

// (By its name the compiler knows that others write to it, and does not take it for the zeros that it begins with.)
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.settings")]
static SETTINGS: Shared<Settings> = Shared::zeroed();
/// A bit for every port.
#[btf_map]
static PORTS: Array<u64, PORT_WORDS> = Array::new();
#[btf_map]
static CIDRS: LpmTrie<[u8; 16], u8, MAX_CIDRS> = LpmTrie::new();

/// The settings, if they ask for all of these `WATCH_*` bits.
#[inline(always)]
pub(crate) fn asked_for(bits: u32) -> Option<&'static Settings> {
    // SAFETY: words, which the agent may change at any time.
    let settings = unsafe { &*SETTINGS.get() };
    (settings.flags & bits == bits).then_some(settings)
}

/// Whether a connection is among those that are asked for, by the port that it is made to and the other end's address. Neither
/// is looked at unless it matters.
#[inline(always)]
pub(crate) fn admits(
    settings: &Settings,
    port: impl FnOnce() -> u16,
    remote: impl FnOnce() -> Address,
) -> bool {
    if settings.flags & (ONLY_PORTS | ONLY_CIDRS) == 0 {
        return true;
    }
    if settings.flags & ONLY_PORTS != 0 {
        let port = port();
        let word = PORTS.get(u32::from(port / 64)).copied().unwrap_or(0);
        if word & (1 << (port % 64)) == 0 {
            return false;
        }
    }
    if settings.flags & ONLY_CIDRS != 0 {
        let whole = Key::new(u128::BITS, bytemuck::cast(remote()));
        if CIDRS.get(&whole).is_none() {
            return false;
        }
    }
    true
}
