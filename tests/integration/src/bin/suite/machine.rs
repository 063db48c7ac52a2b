//! Is this machine what the other tests take it for?

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::guest::protocol::{ASKED, Asked, Cgroups, Root};
use kernelseal_integration::registry::Registry;
use nix::sys::statfs::{
    BPF_FS_MAGIC, BTRFS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs,
};
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
            "machine::ground_is_the_one_asked_for",
            ground_is_the_one_asked_for,
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

/// Whether a machine has the memory that QEMU was told, in its words. The kernel keeps a part for itself, less than a quarter.
fn ensure_has_memory(asked: &str) -> Result<()> {
    let number = asked.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let kib: u64 = match &asked[number.len()..] {
        "" | "M" => 1 << 10,
        "G" => 1 << 20,
        _ => bail!("memory {asked}: so many M or G are known"),
    };
    let asked = number.parse::<u64>()? * kib;
    let text = fs::read_to_string("/proc/meminfo")?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("MemTotal:"));
    let found = lines.next().context("no MemTotal")?;
    let found: u64 = found.trim().trim_end_matches(" kB").parse()?;
    println!("memory: {found} KiB of {asked}");
    ensure!(
        (asked / 4 * 3..=asked).contains(&found),
        "{found} KiB, and {asked} were asked for"
    );
    Ok(())
}

/// Whether a guest is what `guest run` was told to make of it.
fn ground_is_the_one_asked_for() -> Result<()> {
    let Ok(asked) = env::var(ASKED) else {
        return Ok(()); // no guest
    };
    let asked: Asked = serde_json::from_str(&asked)?;
    let name = uname()?;
    let (release, version) = (
        name.release().to_string_lossy(),
        name.version().to_string_lossy(),
    );
    ensure!(
        asked.kernel.contains("-rt") == version.contains("PREEMPT_RT"),
        "{version}"
    );
    ensure!(
        asked.kernel.contains('-') != release.contains("-cloud-")
            || asked.kernel.ends_with("-arm64"),
        "{release}"
    );
    ensure_booted_with(&asked.boot)?;
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let last = asked.cpus - 1;
    let wanted = if last == 0 {
        "0".into()
    } else {
        format!("0-{last}")
    };
    ensure!(online.trim() == wanted, "processors {online}");
    ensure_has_memory(&asked.memory)?;
    let root = statfs("/")?.filesystem_type();
    let wanted: &[FsType] = match asked.root {
        // (`RAMFS_MAGIC`)
        Root::Initramfs => &[TMPFS_MAGIC, FsType(0x8584_58f6)],
        Root::Overlay => &[OVERLAYFS_SUPER_MAGIC],
        Root::Btrfs => &[BTRFS_SUPER_MAGIC],
        // (`EROFS_SUPER_MAGIC_V1`)
        Root::Erofs => &[FsType(0xe0f5_e1e2)],
    };
    ensure!(wanted.contains(&root), "the root is of kind {root:?}");
    let mounts = fs::read_to_string("/proc/mounts")?;
    let has = |kind: &str| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some(kind))
    };
    for kind in &asked.without {
        ensure!(!has(kind), "{kind} is mounted");
    }
    let cgroups = (has("cgroup"), has("cgroup2"));
    let wanted = match asked.cgroups {
        Cgroups::Version2 => (false, true),
        Cgroups::Version1 => (true, false),
        Cgroups::Hybrid => (true, true),
    };
    ensure!(cgroups == wanted, "{mounts}");
    Ok(())
}

/// Whether the kernel did what these words of its command line are for.
fn ensure_booted_with(words: &str) -> Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    for word in words.split_whitespace() {
        ensure!(line.split_whitespace().any(|it| it == word), "{line}");
        let (file, wanted) = match word.split_once('=') {
            Some(("preempt", mode)) => ("/sys/kernel/debug/sched/preempt", format!("({mode})")),
            Some(("lockdown", mode)) => ("/sys/kernel/security/lockdown", format!("[{mode}]")),
            Some(("lsm", modules)) => ("/sys/kernel/security/lsm", modules.into()),
            Some(("enforcing", is)) => ("/sys/fs/selinux/enforce", is.into()),
            _ => continue,
        };
        let is_hidden = |kind| !Path::new(kind).exists();
        if is_hidden("/sys/kernel/security/lsm") && file.starts_with("/sys/kernel/security") {
            continue; // securityfs is not mounted
        }
        let found = fs::read_to_string(file).with_context(|| file.to_owned())?;
        ensure!(found.contains(&wanted), "{word}, and {file} is {found}");
    }
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
