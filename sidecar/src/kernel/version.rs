//! Which kernel runs, and what is weaker on it than on others.

use std::fs;

/// The first two numbers of a kernel's release.
pub(super) type Version = (u32, u32);

/// From which kernel to which (this one not included) a row of docs/threat-model.md is weaker.
const WEAKER: [(Version, Version, &str); 2] = [
    (
        (0, 0),
        (6, 4),
        "this kernel's tmpfs cannot be kept out of swap: switch swap off, or encrypt it (row 51 of docs/threat-model.md)",
    ),
    (
        (6, 13),
        (u32::MAX, 0),
        "this kernel has no check of process_madvise by a caller with CAP_PERFMON, which gives hints and reads nothing (row 31 of docs/threat-model.md)",
    ),
];

/// The oldest that can enforce, by architecture: on arm64 the kernel attaches programs to security hooks since 6.4 (a
/// BPF trampoline needs ftrace's direct calls).
const OLDEST: (Version, &str) = if cfg!(target_arch = "aarch64") {
    (
        (6, 4),
        "6.4 or newer is needed on arm64, where earlier ones attach no programs to security hooks. Install a newer one (Debian 12: linux-image-arm64 of bookworm-backports)",
    )
} else {
    ((5, 10), "5.10 or newer is needed")
};

/// What is needed, if this version is too old.
pub(crate) fn too_old(version: Version) -> Option<&'static str> {
    let (oldest, needed) = OLDEST;
    (version < oldest).then_some(needed)
}

/// As `uname -r` says.
pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Its first two numbers.
pub(crate) fn version() -> Version {
    let release = release();
    let mut numbers = release
        .split(['.', '-'])
        .filter_map(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What is weaker here than elsewhere, a sentence each.
pub(crate) fn weaker() -> impl Iterator<Item = &'static str> {
    let version = version();
    WEAKER
        .into_iter()
        .filter(move |(from, to, _)| (*from..*to).contains(&version))
        .map(|(_, _, weaker)| weaker)
}
