//! Who keeps programs from reading the kernel's memory: lockdown in confidentiality mode, or a security module that answers the
//! same hook, as `SELinux` did before 5.16.

use std::{fmt, fs, path::Path};

use super::version::{Version, version};
use crate::confinement;

/// What of the kernel is locked down.
pub(crate) const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Is there where the loaded policy of `SELinux` has the class.
const SELINUX_CLASS: &str = "/sys/fs/selinux/class/lockdown";
/// From here on `SELinux` does not ask its class `lockdown`.
const CLASS_GONE: Version = (5, 16);

/// Who refuses it, as far as this process can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// Lockdown: it says so, or nobody else is known who could.
    Lockdown,
    /// `SELinux`, for this domain.
    Selinux(String),
    /// Lockdown or `SELinux`: securityfs is not there to tell.
    LockdownOrSelinux(String),
    /// Lockdown says that it does not, and this process is in no domain that is confined.
    Other,
}

impl Locked {
    /// Looks for it, where programs are refused.
    pub(super) fn find() -> Self {
        let selinux = (version() < CLASS_GONE && Path::new(SELINUX_CLASS).exists())
            .then(confinement::selinux_domain)
            .flatten();
        Self::of(fs::read_to_string(LOCKDOWN).ok().as_deref(), selinux)
    }

    /// The same of what lockdown says, if it does, and of the domain for which `SELinux` may have refused it.
    fn of(lockdown: Option<&str>, domain: Option<String>) -> Self {
        match (lockdown, domain) {
            (Some(said), _) if says_confidential(said) => Self::Lockdown,
            (Some(_), Some(domain)) => Self::Selinux(domain),
            (Some(_), None) => Self::Other,
            (None, Some(domain)) => Self::LockdownOrSelinux(domain),
            (None, None) => Self::Lockdown,
        }
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BY_LOCKDOWN: &str = "lockdown=confidentiality keeps programs from reading kernel memory. Boot with lockdown=integrity or none";
        let by_selinux = |domain: &str| {
            format!(
                "SELinux keeps the domain {domain} from reading kernel memory (`ausearch -m avc` tells). Allow it `lockdown {{ confidentiality }}`, or run it in a domain that is not confined"
            )
        };
        match self {
            Self::Lockdown => f.write_str(BY_LOCKDOWN),
            Self::Selinux(domain) => f.write_str(&by_selinux(domain)),
            Self::LockdownOrSelinux(domain) => write!(
                f,
                "one of two causes, and {LOCKDOWN} is missing, which would show which. Either {BY_LOCKDOWN}. Or {}",
                by_selinux(domain)
            ),
            Self::Other => write!(
                f,
                "a security module keeps BPF programs from reading kernel memory. It is not lockdown, as {LOCKDOWN} shows. Look into the audit log (`ausearch -m avc`), and allow it for the agent"
            ),
        }
    }
}

/// Whether the kernel keeps programs from reading its memory, where securityfs tells (in containers it seldom does).
pub(crate) fn is_confidential() -> bool {
    fs::read_to_string(LOCKDOWN).is_ok_and(|said| says_confidential(&said))
}

fn says_confidential(said: &str) -> bool {
    said.contains("[confidentiality]")
}

/// Whether the verifier misses a helper that reads the kernel's memory: whom the hook refuses it, for him there is none. (The second
/// wording is that of 6.10 and later.)
pub(super) fn lacks_helper(said: &str) -> bool {
    const HELPER: &str = "bpf_probe_read";
    ["unknown func ", "program of this type cannot use helper "]
        .into_iter()
        .any(|words| said.contains(&format!("{words}{HELPER}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGRITY: &str = "none [integrity] confidentiality\n";
    const CONFIDENTIALITY: &str = "none integrity [confidentiality]\n";

    #[test]
    fn a_kernel_without_helpers_that_read_its_memory_is_locked_down() {
        for said in [
            "15: (85) call bpf_probe_read#4 unknown func bpf_probe_read#4 processed 16 insns",
            "program of this type cannot use helper bpf_probe_read_kernel#113",
        ] {
            assert!(lacks_helper(said), "{said}");
        }
        assert!(!lacks_helper(
            "15: (85) call bpf_probe_read#4 R1 invalid mem access"
        ));
        assert!(!lacks_helper("unknown func bpf_d_path#147"));
    }

    #[test]
    fn who_is_known_not_to_refuse_is_not_named() {
        let domain = || Some("agent_t".to_owned());
        for (lockdown, domain, lockdown_is_named, selinux_is_named) in [
            (Some(CONFIDENTIALITY), None, true, false),
            (Some(CONFIDENTIALITY), domain(), true, false),
            (Some(INTEGRITY), domain(), false, true),
            (None, domain(), true, true),
            (None, None, true, false),
            (Some(INTEGRITY), None, false, false),
        ] {
            let told = Locked::of(lockdown, domain.clone()).to_string();
            let context = format!("{lockdown:?}, {domain:?}: {told}");
            assert_eq!(
                told.contains("Boot with lockdown=integrity"),
                lockdown_is_named,
                "{context}"
            );
            assert_eq!(
                told.contains("domain agent_t") && told.contains("`lockdown {"),
                selinux_is_named,
                "{context}"
            );
        }
    }
}
