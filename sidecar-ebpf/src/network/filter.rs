//! What the agent wants to hear of, as far as it can be told here: all but containers' names.

use aya_ebpf::{
    btf_maps::{Array, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use sidecar_common::{
    monitor::Within,
    network::{Address, MAX_CIDRS, PORT_WORDS, Settings, WatchFlags},
};
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

/// What is asked for at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// As [`Settings`] has them.
    pub(crate) flags: WatchFlags,
    settings: &'static Settings,
}

/// What is asked for, if all of these `WATCH_*` bits are.
#[inline(always)]
pub(crate) fn asked_for(bits: WatchFlags) -> Option<Asked> {
    // SAFETY: words, which the agent may change at any time.
    let settings = unsafe { &*SETTINGS.get() };
    let flags = settings.flags;
    flags.contains(bits).then_some(Asked { flags, settings })
}

impl Asked {
    /// Whose.
    #[inline(always)]
    pub(crate) fn within(self) -> &'static Within {
        &self.settings.within
    }

    /// See [`Settings`]; as it is now.
    #[inline(always)]
    pub(crate) fn generation(self) -> u32 {
        // SAFETY: a word, which the agent may change.
        unsafe { (&raw const self.settings.generation).read_volatile() }
    }

    /// Whether a connection is among those that are asked for, by the port that it is made to and the other end's address.
    /// Neither is looked at unless it matters.
    #[inline(always)]
    pub(crate) fn admits(
        self,
        port: impl FnOnce() -> u16,
        remote: impl FnOnce() -> Address,
    ) -> bool {
        if !self
            .flags
            .intersects(WatchFlags::ONLY_PORTS | WatchFlags::ONLY_CIDRS)
        {
            return true;
        }
        if self.flags.contains(WatchFlags::ONLY_PORTS) {
            let port = port();
            let word = PORTS.get(u32::from(port / 64)).copied().unwrap_or(0);
            if word & (1 << (port % 64)) == 0 {
                return false;
            }
        }
        if self.flags.contains(WatchFlags::ONLY_CIDRS) {
            let whole = Key::new(u128::BITS, bytemuck::cast(remote()));
            if CIDRS.get(&whole).is_none() {
                return false;
            }
        }
        true
    }
}
