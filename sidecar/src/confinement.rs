//! Who else confines this process: a security module with a profile or a domain, which refuses what an agent does.

use std::fs;

/// What the active security module says of this process.
const CURRENT: &str = "/proc/self/attr/current";
/// Whether `SELinux` refuses, or only tells.
const ENFORCE: &str = "/sys/fs/selinux/enforce";
/// How a kernel's error for what such a module refuses ends (`EACCES`).
const REFUSED: &str = "(os error 13)";

/// Domains that `SELinux`'s policies leave alone, those of the system and of privileged containers among them.
const UNCONFINED: [&str; 5] = [
    "unconfined_t",
    "unconfined_service_t",
    "spc_t",
    "kernel_t",
    "init_t",
];
/// What the verifier says of a program that it refuses, by the same number.
const OF_VERIFIER: &str = "processed ";

/// What to do about an error for which a profile or a domain may be the cause, and is not told of yet.
pub(crate) fn advice(error: &str) -> Option<String> {
    if !error.contains(REFUSED) || error.contains(OF_VERIFIER) {
        return None;
    }
    let current = fs::read_to_string(CURRENT).ok()?;
    let advice = of(current.trim_matches(['\n', '\0']), is_permissive())?;
    (!error.contains(&advice)).then_some(advice)
}

/// The domain in which `SELinux` confines this process, if it does and refuses things.
pub(crate) fn selinux_domain() -> Option<String> {
    let current = fs::read_to_string(CURRENT).ok()?;
    domain_of(current.trim_matches(['\n', '\0']), is_permissive()).map(str::to_owned)
}

fn is_permissive() -> bool {
    fs::read_to_string(ENFORCE).is_ok_and(|text| text.trim() == "0")
}

fn domain_of(current: &str, is_permissive: bool) -> Option<&str> {
    // (user, role, type, level)
    let domain = current.split(':').nth(2)?;
    (!is_permissive && !UNCONFINED.contains(&domain)).then_some(domain)
}

/// The same of what the module says.
fn of(current: &str, is_permissive: bool) -> Option<String> {
    if let Some(profile) = current.strip_suffix(" (enforce)") {
        return Some(format!(
            "AppArmor's profile {profile} confines this process, and may be what refused it. Run the agent without one: `appArmorProfile: {{type: Unconfined}}` in its container's securityContext, `--security-opt apparmor=unconfined` for docker"
        ));
    }
    let domain = domain_of(current, is_permissive)?;
    Some(format!(
        "SELinux confines this process to the domain {domain}, and may be what refused it (`ausearch -m avc` tells). Run it in a domain that is not confined, or allow it `bpf {{ map_create map_read map_write prog_load prog_run }}` and the rest of docs/grounds.md"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_or_a_domain_is_told_of_with_the_way_out() {
        let told = of("docker-default (enforce)", false).unwrap();
        assert!(told.contains("docker-default") && told.contains("apparmor=unconfined"));
        let told = of("system_u:system_r:container_t:s0:c1,c2", false).unwrap();
        assert!(told.contains("container_t") && told.contains("prog_load"));
    }

    #[test]
    fn who_is_not_confined_is_told_nothing() {
        for current in [
            "unconfined",
            "docker-default (complain)",
            "",
            "system_u:system_r:spc_t:s0",
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
        ] {
            assert_eq!(of(current, false), None, "{current}");
        }
        assert_eq!(of("u:r:container_t:s0", true), None);
        assert_eq!(advice("bpf: Operation not permitted (os error 1)"), None);
    }
}
