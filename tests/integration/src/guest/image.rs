//! Puts a guest's first file system together.

use std::env;
use std::fs;
use std::io::Write;
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::args::Run;
use super::cache::{Cache, Kernel};
use super::cpio::Archive;
use super::elf::{self, Library};
use super::machine::Machine;
use super::modules::Modules;
use super::protocol::{ASKED, Asked, JOB_FILE, Job, MODULES_DIR, SELINUX_POLICY};

/// The modules every guest loads: its disk, its network card, what containers want, and what an attacker does.
const MODULES: [&str; 6] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "overlay",
    "veth",
    "binfmt_misc",
];
/// Where the empty file system is mounted, which every guest has.
const EMPTY_DISK: &str = "/ext4";
/// Debian's layout: the old places are links into /usr.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const MOUNT_POINTS: [&str; 12] = [
    "proc", "sys", "dev", "tmp", "run", "root", "ext4", "var/log", "var/tmp", "mnt", "etc", "home",
];

/// Writes the initramfs for a run.
pub fn write<W: Write>(out: W, run: &Run, cache: &Cache, kernel: &Kernel) -> Result<W> {
    let mut image = Image {
        archive: Archive::new(out),
        libraries: Vec::new(),
        machine: kernel.machine,
    };
    for name in MERGED {
        image.archive.directory(&format!("usr/{name}"))?;
        image.archive.symlink(name, &format!("usr/{name}"))?;
    }
    for path in MOUNT_POINTS {
        image.archive.directory(path)?;
    }
    for disk in &run.disks {
        image.archive.directory(&archive_path(&disk.place))?;
    }
    image.archive.character_device("dev/console", 5, 1)?;
    image.archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    image
        .archive
        .file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    image.archive.file(
        "etc/hosts",
        0o644,
        b"127.0.0.1 localhost guest\n::1 localhost\n",
    )?;
    let init = built(run, "init").context("guest's own init")?;
    image.add(&init, "/init")?;
    for add in &run.add {
        let host = fs::canonicalize(&add.host)
            .with_context(|| format!("--add {}: no such file or folder", add.host.display()))?;
        let guest = match &add.guest {
            Some(path) => path.clone(),
            None => std::path::absolute(&add.host)?
                .to_string_lossy()
                .into_owned(),
        };
        image.add(&host, &guest)?;
    }
    if let Some(program) = run.command.first()
        && !program.contains('/')
        && let Ok(path) = built(run, program)
    {
        image.add(&path, &format!("/usr/bin/{program}"))?;
    }
    if let Some(maker) = run.root.maker() {
        let program = tool(maker)?;
        image.add(&program, &format!("/usr/sbin/{maker}"))?;
    }
    if let Some(policy) = &run.selinux {
        image.add(policy, SELINUX_POLICY)?;
    }
    image.busybox(cache)?;
    image.add_libraries()?;
    let modules = image.modules(run, kernel)?;
    let mut env = run.env.clone();
    let line = Machine::line(&kernel.name).to_owned();
    env.push(("KERNELSEAL_GUEST_KERNEL".to_owned(), line));
    let asked = Asked {
        kernel: run.kernel.clone(),
        boot: run.boot.clone(),
        cpus: run.cpus,
        memory: run.memory.clone(),
        root: run.root,
        cgroups: run.cgroups,
        without: run.without.clone(),
    };
    env.push((ASKED.to_owned(), serde_json::to_string(&asked)?));
    let job = Job {
        command: run.command.clone(),
        env,
        modules,
        disks: iter::once(EMPTY_DISK)
            .chain(run.disks.iter().map(|disk| disk.place.as_str()))
            .map(str::to_owned)
            .collect(),
        has_network: run.reach.is_some(),
        root: run.root,
        cgroups: run.cgroups,
        without: run.without.clone(),
        has_selinux_policy: run.selinux.is_some(),
    };
    image
        .archive
        .file(&JOB_FILE[1..], 0o644, &serde_json::to_vec(&job)?)?;
    Ok(image.archive.finish()?)
}

/// A program that cargo built for the guest: together with this one, unless told.
fn built(run: &Run, name: &str) -> Result<PathBuf> {
    let path = match &run.programs {
        Some(folder) => folder.join(name),
        None => env::current_exe()
            .context("cannot tell where guest itself is")?
            .with_file_name(name),
    };
    if !path.is_file() {
        bail!(
            "{} is missing; build it with `cargo build --bins`, for the guest's architecture",
            path.display()
        );
    }
    Ok(path)
}

/// A program of this machine that root runs.
fn tool(name: &str) -> Result<PathBuf> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let found = places.iter().find(|path| path.is_file());
    let found = found.with_context(|| format!("{name} is missing; run .ci/install grounds"))?;
    Ok(fs::canonicalize(found)?)
}

struct Image<W: Write> {
    archive: Archive<W>,
    libraries: Vec<Library>,
    machine: Machine,
}

impl<W: Write> Image<W> {
    /// Adds a file or a folder; links inside a folder stay links.
    fn add(&mut self, host: &Path, guest: &str) -> Result<()> {
        let fail = || format!("cannot add {}", host.display());
        let metadata = fs::symlink_metadata(host).with_context(fail)?;
        let path = archive_path(guest);
        if metadata.is_dir() {
            self.archive.directory(&path)?;
            for entry in fs::read_dir(host).with_context(fail)? {
                let entry = entry.with_context(fail)?;
                self.add(
                    &entry.path(),
                    &format!("{path}/{}", entry.file_name().to_string_lossy()),
                )?;
            }
        } else if metadata.is_symlink() {
            let target = fs::read_link(host).with_context(fail)?;
            self.archive.symlink(&path, &target.to_string_lossy())?;
        } else if metadata.is_file() {
            let permissions = metadata.permissions().mode();
            self.archive
                .file_from(&path, permissions, host)
                .with_context(fail)?;
            // (those of another architecture are not on this machine, but in guest/fetch's folders)
            if self.machine.is_this_one() && permissions & 0o111 != 0 && !is_library(&path) {
                self.libraries.extend(elf::libraries(host)?);
            }
        }
        Ok(())
    }

    /// Adds what programs turned out to need. A library not on this machine must have been added.
    fn add_libraries(&mut self) -> Result<()> {
        for library in std::mem::take(&mut self.libraries) {
            match library {
                Library::Found(path) => {
                    let guest = archive_path(&path.to_string_lossy());
                    self.archive
                        .file_from(&guest, 0o755, &path)
                        .with_context(|| format!("cannot add {}", path.display()))?;
                }
                Library::Missing(name) => {
                    let folders = ["usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64"];
                    if !folders
                        .iter()
                        .any(|folder| self.archive.contains(&format!("{folder}/{name}")))
                    {
                        bail!(
                            "an added program needs {name}, which is not on this machine; install it or --add it"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds busybox with a link for each of its commands: this machine's, which can be asked, has the same.
    fn busybox(&mut self, cache: &Cache) -> Result<()> {
        let output = Command::new(cache.busybox(Machine::X86_64)?)
            .arg("--list-full")
            .output()
            .context("cannot run busybox")?;
        self.add(&cache.busybox(self.machine)?, "/usr/bin/busybox")?;
        for applet in String::from_utf8_lossy(&output.stdout).lines() {
            self.archive
                .symlink(&archive_path(applet), "/usr/bin/busybox")?;
        }
        Ok(())
    }

    /// Adds the kernel modules, and gives their names in the order in which to load them.
    fn modules(&mut self, run: &Run, kernel: &Kernel) -> Result<Vec<String>> {
        let wanted: Vec<String> = MODULES
            .into_iter()
            .map(str::to_owned)
            .chain(run.root.modules().iter().copied().map(str::to_owned))
            .chain(run.modules.iter().cloned())
            .collect();
        let mut names = Vec::new();
        for path in Modules::open(&kernel.modules)?.closure(&wanted)? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            self.archive
                .file_from(&format!("{}/{name}", &MODULES_DIR[1..]), 0o644, &path)?;
            names.push(name);
        }
        Ok(names)
    }
}

/// The path as the archive wants it: from the root, with Debian's links into /usr followed.
fn archive_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    match parts.first() {
        Some(first) if MERGED.contains(first) && parts.len() > 1 => {
            format!("usr/{}", parts.join("/"))
        }
        _ => parts.join("/"),
    }
}

/// Libraries are executable files too, and need no loader of their own.
fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    format!("{name}.").contains(".so.")
}

#[cfg(test)]
mod tests {
    use super::{archive_path, is_library};

    #[test]
    fn old_places_lead_into_usr() {
        assert_eq!(
            archive_path("/lib/x86_64-linux-gnu/libc.so.6"),
            "usr/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(
            archive_path("/lib64/ld-linux-x86-64.so.2"),
            "usr/lib64/ld-linux-x86-64.so.2"
        );
        assert_eq!(archive_path("//opt/./x/../tool"), "opt/tool");
        assert_eq!(archive_path("/opt/../bin/tool"), "usr/bin/tool");
        assert_eq!(archive_path("/../.."), "");
        assert_eq!(archive_path("/init"), "init");
    }

    #[test]
    fn libraries_are_told_by_name() {
        assert!(is_library("usr/lib/libc.so.6"));
        assert!(is_library("usr/lib/x.so"));
        assert!(!is_library("usr/lib/x.so.d/tool"));
        assert!(!is_library("usr/bin/also"));
    }
}
