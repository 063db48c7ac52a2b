//! What the machine has in use: to be the same before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use kernelseal_integration::process::{descriptors, resident_kib, status_number};
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// File systems that are mounted to see which device numbers are free.
const DEVICES: usize = 64;
/// Slab caches that are named when slabs grow.
const NAMED: usize = 6;

/// What a process has.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub threads: u64,
}

impl Process {
    pub fn look(pid: u32) -> Result<Self> {
        Ok(Self {
            resident_kib: resident_kib(pid)?,
            descriptors: descriptors(pid)?,
            threads: status_number(pid, "Threads")?,
        })
    }
}

/// What the kernel has.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Memory of tmpfs files, mounted or not.
    pub shmem_kib: u64,
    /// Memory of kernel objects that cannot just be dropped.
    pub slab_kib: u64,
    /// Sum of the lowest free device numbers: a file system that was left behind takes one of them.
    pub devices: u64,
    slabs: BTreeMap<String, u64>,
}

impl Kernel {
    pub fn look() -> Result<Self> {
        // In a guest alone: another's machine keeps its caches.
        if std::env::var_os("KERNELSEAL_GUEST_KERNEL").is_some() {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        }
        let devices = free_devices()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib = |field: &str| -> Result<u64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.with_context(|| format!("no {field}"))?.parse()?)
        };
        Ok(Self {
            shmem_kib: kib("Shmem:")?,
            slab_kib: kib("SUnreclaim:")?,
            devices,
            slabs: slabs()?,
        })
    }

    /// The slab caches that grew most since then.
    pub fn grown_since(&self, then: &Self) -> String {
        let mut grown: Vec<_> = self
            .slabs
            .iter()
            .map(|(name, kib)| {
                (
                    kib.saturating_sub(*then.slabs.get(name).unwrap_or(&0)),
                    name,
                )
            })
            .collect();
        grown.sort_unstable_by(|one, other| other.cmp(one));
        let most = grown.iter().filter(|(kib, _)| *kib > 0).take(NAMED);
        most.map(|(kib, name)| format!("{name} +{kib} KiB"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Mounts some file systems: they get the lowest numbers that are free.
fn free_devices() -> Result<u64> {
    let scratch = Scratch::new()?;
    let mut sum = 0;
    let mut mounted = 0;
    let mut mount_all = || -> Result<()> {
        for _ in 0..DEVICES {
            let plain = MsFlags::empty();
            mount(
                Some("tmpfs"),
                scratch.path(),
                Some("tmpfs"),
                plain,
                None::<&str>,
            )?;
            mounted += 1;
            sum += u64::from(libc::minor(fs::metadata(scratch.path())?.dev()));
        }
        Ok(())
    };
    let result = mount_all();
    for _ in 0..mounted {
        umount2(scratch.path(), MntFlags::empty())?;
    }
    result.map(|()| sum)
}

/// KiB by cache.
fn slabs() -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string("/proc/slabinfo")?;
    // (two lines of headings)
    let lines = text.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let objects: u64 = words.nth(1)?.parse().ok()?;
        let size: u64 = words.next()?.parse().ok()?;
        Some((name, objects * size / 1024))
    });
    Ok(lines.collect())
}
