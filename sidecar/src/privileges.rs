//! The capabilities that this process needs and has. Checked before anything else, so that the user reads what is missing and not
//! the first system call that failed for want of it.

use std::fs;

use anyhow::ensure;
use rustix::process::geteuid;

/// The capabilities that an agent uses: bit (uapi/linux/capability.h) and name, each with its use.
const NEEDED: [(u32, &str); 7] = [
    (0, "CHOWN"),         // gives secret files to the program's user
    (1, "DAC_OVERRIDE"),  // makes them in directories of any user; writes coredump_filter
    (5, "KILL"),          // continues and kills held programs of any user
    (18, "SYS_CHROOT"),   // setns(CLONE_NEWNS) needs it
    (19, "SYS_PTRACE"),   // attaches to programs, reads and writes their memory
    (21, "SYS_ADMIN"),    // loads BPF programs, mounts
    (24, "SYS_RESOURCE"), // sets RLIMIT_CORE of other users' programs
];
/// Without `CAP_SYS_ADMIN` no BPF program can be loaded and no pinned map opened.
const SYS_ADMIN: u32 = 21;

/// The effective capabilities of this process.
pub(crate) struct Privileges {
    effective: u64,
}

impl Privileges {
    /// Reads them from `/proc/self/status`; where that fails, none.
    pub(crate) fn of_self() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        Self { effective }
    }

    /// Names of the needed capabilities that it has.
    pub(crate) fn present(&self) -> String {
        names(|bit| self.has(bit))
    }

    /// Names of the needed capabilities that it lacks; empty where it has all.
    pub(crate) fn missing(&self) -> String {
        names(|bit| !self.has(bit))
    }

    /// Whether it is neither root nor has `CAP_SYS_ADMIN`.
    pub(crate) fn is_ordinary(&self) -> bool {
        !geteuid().is_root() && !self.has(SYS_ADMIN)
    }

    fn has(&self, bit: u32) -> bool {
        self.effective & (1 << bit) != 0
    }
}

/// The message for a user without privileges.
pub(crate) fn not_root() -> String {
    format!(
        "not root (this is user {}): run it as root, as by sudo, or in a container with these capabilities: {}",
        geteuid().as_raw(),
        names(|_| true)
    )
}

/// Checks that this process is not an ordinary user's.
///
/// # Errors
///
/// Names the user and the capabilities that are needed.
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
