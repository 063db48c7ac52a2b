//! Who a process is: the file it executes, where it lives, who it runs for.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, open, openat2};
use sha2::{Digest as _, Sha256};

/// A file, by where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    /// Device, in the kernel's encoding.
    pub(crate) dev: u32,
    /// Inode.
    pub(crate) ino: u64,
}

/// A device number as the kernel keeps it (`MAJOR << 20 | MINOR`), from the one `stat` gives
/// (`new_encode_dev`).
pub(crate) fn kernel_dev(stat_dev: u64) -> u32 {
    (rustix::fs::major(stat_dev) << 20) | rustix::fs::minor(stat_dev)
}

/// A process in our own PID namespace, looked at through `/proc`. It must be held while we look:
/// then its number stays its own.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// The process of that number in our PID namespace.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Path of the file it executes, in its own mount namespace.
    pub(crate) fn executable(self) -> io::Result<PathBuf> {
        fs::read_link(self.file("exe"))
    }

    /// SHA-256 of the file it executes: of that very file, whatever its path now leads to.
    pub(crate) fn executable_sha256(self) -> io::Result<String> {
        let mut digest = Sha256::new();
        io::copy(&mut fs::File::open(self.file("exe"))?, &mut digest)?;
        Ok(hex::encode(digest.finalize()))
    }

    /// The file it executes.
    pub(crate) fn executable_file(self) -> io::Result<FileId> {
        let found = fs::metadata(self.file("exe"))?;
        Ok(FileId {
            dev: kernel_dev(found.dev()),
            ino: found.ino(),
        })
    }

    /// The file that a path leads to in the process's own root and mount namespace.
    pub(crate) fn file_at(self, path: &Path) -> io::Result<FileId> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = open(self.file("root"), flags | OFlags::DIRECTORY, Mode::empty())?;
        let relative = path.strip_prefix("/").unwrap_or(path);
        let file = openat2(
            &root,
            relative,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let found = fstat(&file)?;
        Ok(FileId {
            dev: kernel_dev(found.st_dev),
            ino: found.st_ino,
        })
    }

    /// Its cgroup in the unified hierarchy, as our own cgroup namespace shows it.
    pub(crate) fn cgroup(self) -> io::Result<PathBuf> {
        let text = fs::read_to_string(self.file("cgroup"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other("it has no cgroup in the unified hierarchy (cgroup2)"))
    }

    /// Keeps its memory out of core dumps, to files and to pipes alike.
    pub(crate) fn exclude_from_core_dumps(self) -> io::Result<()> {
        fs::write(self.file("coredump_filter"), "0")
    }

    /// Bytes its stack may grow to.
    pub(crate) fn stack_limit(self) -> io::Result<u64> {
        let text = fs::read_to_string(self.file("limits"))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("Max stack size"))
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| io::Error::other("/proc/<pid>/limits has no stack size"))?;
        Ok(value.parse().unwrap_or(u64::MAX)) // "unlimited"
    }

    /// Who traces it, if anybody: number and name.
    pub(crate) fn tracer(self) -> Option<(u32, String)> {
        let text = fs::read_to_string(self.file("status")).ok()?;
        let pid = text
            .lines()
            .find_map(|l| l.strip_prefix("TracerPid:"))?
            .trim()
            .parse()
            .ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid != 0).then(|| (pid, name.trim_end().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_number_is_taken_apart_and_put_together_as_the_kernel_does() {
        assert_eq!(kernel_dev(rustix::fs::makedev(0, 45)), 45);
        assert_eq!(kernel_dev(rustix::fs::makedev(0, 300)), 300);
        assert_eq!(kernel_dev(rustix::fs::makedev(8, 1)), (8 << 20) | 1);
    }

    #[test]
    fn the_file_at_our_own_path_is_the_one_we_execute() {
        let process = Process::new(std::process::id());
        let path = process.executable().unwrap();
        assert_eq!(
            process.file_at(&path).unwrap(),
            process.executable_file().unwrap()
        );
    }
}
