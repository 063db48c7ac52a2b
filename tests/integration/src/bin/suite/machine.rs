//! Is this machine what the other tests take it for?

use std::env;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::registry::Registry;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::utsname::uname;

/// The oldest kernel that is supported.
const OLDEST: (u32, u32) = (5, 10);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "machine::kernel_is_the_one_asked_for",
            kernel_is_the_one_asked_for,
        )
        .test(
            "machine::bpf_is_among_the_security_modules",
            bpf_is_among_the_security_modules,
        )
        .test(
            "machine::kernel_describes_its_types",
            kernel_describes_its_types,
        )
        .test(
            "machine::bpf_file_system_is_mounted",
            bpf_file_system_is_mounted,
        )
        .test(
            "machine::own_pid_namespace_can_be_read",
            own_pid_namespace_can_be_read,
        )
}

fn kernel_is_the_one_asked_for() -> Result<()> {
    let name = uname().context("uname")?;
    let release = name.release().to_string_lossy();
    if let Ok(asked) = env::var("KERNELSEAL_GUEST_KERNEL") {
        let rest = release.strip_prefix(&asked);
        ensure!(
            rest.is_some_and(|rest| rest.starts_with('.')),
            "this is kernel {release}, and {asked} was asked for"
        );
    }
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ensure!(found >= OLDEST, "kernel {release} is older than {OLDEST:?}");
    Ok(())
}

fn bpf_is_among_the_security_modules() -> Result<()> {
    let path = "/sys/kernel/security/lsm";
    let modules = fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}; is securityfs mounted?"))?;
    ensure!(
        modules.trim().split(',').any(|module| module == "bpf"),
        "{path} is {modules}; add bpf to lsm= on the kernel's command line"
    );
    Ok(())
}

fn kernel_describes_its_types() -> Result<()> {
    let path = "/sys/kernel/btf/vmlinux";
    let types = fs::read(path)
        .with_context(|| format!("cannot read {path}; the kernel wants CONFIG_DEBUG_INFO_BTF"))?;
    ensure!(
        types.starts_with(&0xeb9f_u16.to_le_bytes()),
        "{path} does not begin as BTF does"
    );
    Ok(())
}

fn bpf_file_system_is_mounted() -> Result<()> {
    let path = "/sys/fs/bpf";
    let kind = statfs(path)
        .with_context(|| format!("cannot look at {path}"))?
        .filesystem_type();
    if kind != BPF_FS_MAGIC {
        bail!("no bpffs on {path}; mount it: mount -t bpf bpf {path}");
    }
    Ok(())
}

fn own_pid_namespace_can_be_read() -> Result<()> {
    let link = fs::read_link("/proc/self/ns/pid").context("cannot read /proc/self/ns/pid")?;
    let text = link.to_string_lossy();
    ensure!(
        text.starts_with("pid:[") && text.ends_with(']'),
        "/proc/self/ns/pid leads to {text}"
    );
    Ok(())
}

/// The running kernel's line, such as (6, 12).
pub fn kernel_version() -> Result<(u32, u32)> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next().context("no release").and_then(|n| Ok(n?));
    Ok((next()?, next()?))
}
