//! Finds what `guest/fetch` downloaded.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::machine::Machine;

/// The folder that `guest/fetch` fills.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// One kernel in the cache.
#[derive(Debug)]
pub struct Kernel {
    /// The one asked for, such as `6.1`, or `6.12-arm64`.
    pub name: String,
    /// What it runs on.
    pub machine: Machine,
    /// The boot image.
    pub image: PathBuf,
    /// The modules' tree, decompressed.
    pub modules: PathBuf,
}

impl Cache {
    /// Finds the folder by the rule `guest/fetch` follows.
    pub fn open() -> Result<Self> {
        let set = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = set("KERNELSEAL_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("kernelseal")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/kernelseal")));
        match root {
            Some(root) => Ok(Self { root }),
            None => bail!("neither KERNELSEAL_CACHE nor HOME is set: no cache folder; set one"),
        }
    }

    /// The QEMU to run.
    pub fn qemu(&self, machine: Machine) -> Result<PathBuf> {
        self.need(format!("qemu{}/bin/qemu", machine.suffix()), "KERNEL")
    }

    /// The static busybox.
    pub fn busybox(&self, machine: Machine) -> Result<PathBuf> {
        let at = |place| {
            let path = format!("busybox{}/{place}/busybox", machine.suffix());
            self.need(path, "KERNEL")
        };
        at("bin").or_else(|_| at("usr/bin"))
    }

    /// The empty ext4 file system.
    pub fn ext4(&self) -> Result<PathBuf> {
        self.need("ext4/image", "KERNEL")
    }

    /// The kernel of a name such as `6.1`, or `6.12-arm64`.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let at = |file: &str| self.need(Path::new("kernels").join(name).join(file), name);
        Ok(Kernel {
            name: name.to_owned(),
            machine: Machine::of(name),
            image: at("vmlinuz")?,
            modules: at("modules")?,
        })
    }

    fn need(&self, path: impl AsRef<Path>, kernel: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        if !path.exists() {
            bail!("{} is missing; run guest/fetch {kernel}", path.display());
        }
        Ok(path)
    }
}
