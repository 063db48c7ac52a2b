//! `kernelseal check`: whether this machine can enforce, requirement by requirement, with the fix.

use std::{fs, path::Path, process::ExitCode};

use sidecar_common::network::WatchFlags;

use crate::{
    confinement,
    kernel::{
        self, LOCKDOWN, LSM_LIST, Locked, Network, NetworkRequest, VMLINUX_BTF, pins, version,
    },
    privileges::{self, Privileges},
};

/// A requirement, looked at.
struct Finding {
    what: String,
    is_met: bool,
    /// What was found, or what to do.
    detail: String,
}

impl Finding {
    fn met(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_met: true,
            detail: detail.into(),
        }
    }

    fn missing(what: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut detail = fix.into();
        if let Some(advice) = confinement::advice(&detail) {
            detail = format!("{detail}. {advice}");
        }
        Self {
            what: what.into(),
            is_met: false,
            detail,
        }
    }
}

/// Prints a line each; fails if one is not met.
pub(crate) fn run() -> ExitCode {
    let privileges = Privileges::of_self();
    let mut findings = vec![root(&privileges), release(), btf(), lsm(), lockdown()];
    // What an ordinary user is refused says nothing about the machine.
    if !privileges.is_ordinary() {
        findings.extend([bpf_fs(), attach()]);
    }
    for Finding {
        what,
        is_met,
        detail,
    } in &findings
    {
        println!("{} {what}: {detail}", if *is_met { "ok  " } else { "FAIL" });
    }
    for weaker in version::weaker() {
        println!("note {weaker}");
    }
    if privileges.is_ordinary() {
        println!(
            "note BPF file system, programs and network monitor: not checked. Run this as root to check them"
        );
        println!("Whether this machine can enforce is not known.");
        return ExitCode::FAILURE;
    }
    println!("note {}", network_monitor());
    if findings.iter().all(|finding| finding.is_met) {
        println!("This machine can enforce.");
        ExitCode::SUCCESS
    } else {
        println!("This machine cannot enforce.");
        ExitCode::FAILURE
    }
}

fn root(privileges: &Privileges) -> Finding {
    let missing = privileges.missing();
    if missing.is_empty() {
        Finding::met("privileges", privileges.present())
    } else if privileges.is_ordinary() {
        Finding::missing("privileges", privileges::not_root())
    } else {
        Finding::missing(
            "privileges",
            format!("{missing} missing: run as root, or give the container these capabilities"),
        )
    }
}

fn release() -> Finding {
    let release = version::release();
    match version::too_old(version::version()) {
        None => Finding::met("kernel", release),
        Some(needed) => Finding::missing("kernel", format!("{release} is too old: {needed}")),
    }
}

fn btf() -> Finding {
    if Path::new(VMLINUX_BTF).exists() {
        Finding::met("type information", VMLINUX_BTF)
    } else {
        Finding::missing("type information", kernel::Error::NoBtf.to_string())
    }
}

fn lsm() -> Finding {
    const WHAT: &str = "security module";
    let missing = |active: &str| {
        Finding::missing(
            WHAT,
            format!("bpf is not active. Boot with `lsm={active},bpf` on the kernel command line"),
        )
    };
    match fs::read_to_string(LSM_LIST) {
        Ok(list) if kernel::names_bpf(&list) => {
            Finding::met(WHAT, format!("bpf is active ({})", list.trim()))
        }
        Ok(list) => missing(list.trim()),
        Err(e) => match kernel::boot_lsm() {
            Some(given) if !kernel::names_bpf(&given) => missing(&given),
            // (whether hooks run, `attach` sees)
            _ => Finding::met(
                WHAT,
                format!("{LSM_LIST} cannot be read ({e}). Whether hooks run is checked below"),
            ),
        },
    }
}

fn lockdown() -> Finding {
    const WHAT: &str = "lockdown";
    if kernel::is_confidential() {
        Finding::missing(WHAT, Locked::Lockdown.to_string())
    } else if Path::new(LOCKDOWN).exists() {
        Finding::met(WHAT, "does not keep programs from reading kernel memory")
    } else {
        Finding::met(
            WHAT,
            format!("{LOCKDOWN} is missing. Whether programs load is checked below"),
        )
    }
}

fn bpf_fs() -> Finding {
    match pins::bpf_fs() {
        Ok(()) => Finding::met("BPF file system", "/sys/fs/bpf"),
        Err(e) => Finding::missing("BPF file system", e.to_string()),
    }
}

/// Not a requirement: whoever asks for it is told at start, too.
fn network_monitor() -> String {
    let request = NetworkRequest::default();
    match Network::load(&request) {
        Ok((mut network, _)) => {
            let attached: Vec<_> = Network::attached().collect();
            let unix = NetworkRequest {
                watch: WatchFlags::UNIX,
                ..request
            };
            let unix = match network.change(&unix) {
                Ok(()) => "; for Unix sockets, too".to_owned(),
                Err(e) => format!("; not for Unix sockets: {e}"),
            };
            format!(
                "the network monitor can be attached: {}{unix}",
                attached.join(", ")
            )
        }
        Err(e) => format!("the network monitor cannot be attached: {e}"),
    }
}

fn attach() -> Finding {
    let attached = kernel::load().and_then(|loaded| {
        // (while they are attached)
        kernel::ensure_fires()?;
        let is_seen = kernel::ask_hook() == kernel::Answer::Fires;
        Ok((loaded.attached().join(", "), is_seen))
    });
    match attached {
        Ok((names, true)) => {
            Finding::met("programs", format!("loaded, attached, and run: {names}"))
        }
        Ok((names, false)) => Finding::met(
            "programs",
            format!(
                "loaded and attached (whether they run could not be checked: seccomp or another security module answers first): {names}"
            ),
        ),
        Err(e) => Finding::missing("programs", e.to_string()),
    }
}
