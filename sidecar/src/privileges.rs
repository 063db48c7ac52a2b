//! Whether this process may do what it is asked to do at all: said first, and once, instead of what fails for want of it.

use std::fs;

use anyhow::ensure;
use rustix::process::geteuid;

/// Bits of the capabilities we use (uapi/linux/capability.h), and what for.
const NEEDED: [(u32, &str); 7] = [
    (0, "CHOWN"),         // secret files are the program's user's
    (1, "DAC_OVERRIDE"),  // and are made in its directories
    (5, "KILL"),          // release and refuse
    (18, "SYS_CHROOT"),   // enter its mount namespace
    (19, "SYS_PTRACE"),   // take hold of it
    (21, "SYS_ADMIN"),    // load programs, mount
    (24, "SYS_RESOURCE"), // keep it from dumping core
];
/// Without this one nothing can be asked of the kernel side.
const SYS_ADMIN: u32 = 21;

/// What this process has of what it needs.
pub(crate) struct Privileges {
    effective: u64,
}

impl Privileges {
    /// Its own.
    pub(crate) fn of_self() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        Self { effective }
    }

    /// Those that are needed and there.
    pub(crate) fn present(&self) -> String {
        names(|bit| self.has(bit))
    }

    /// Those that are needed and missing; empty where none is.
    pub(crate) fn missing(&self) -> String {
        names(|bit| !self.has(bit))
    }

    /// Whether this is an ordinary user's process, who can do nothing here.
    pub(crate) fn is_ordinary(&self) -> bool {
        !geteuid().is_root() && !self.has(SYS_ADMIN)
    }

    fn has(&self, bit: u32) -> bool {
        self.effective & (1 << bit) != 0
    }
}

/// How an ordinary user is told what to do.
pub(crate) fn not_root() -> String {
    format!(
        "not root (this is user {}): run it as root, as by sudo, or in a container with these capabilities: {}",
        geteuid().as_raw(),
        names(|_| true)
    )
}

/// Fails for an ordinary user.
///
/// # Errors
///
/// That it is not root, and what to do.
pub(crate) fn ensure_root() -> anyhow::Result<()> {
    ensure!(!Privileges::of_self().is_ordinary(), "{}", not_root());
    Ok(())
}

fn names(which: impl Fn(u32) -> bool) -> String {
    let names: Vec<_> = NEEDED
        .iter()
        .filter(|(bit, _)| which(*bit))
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    names.join(", ")
}
