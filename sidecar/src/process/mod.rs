//! Who a process is: the file it executes, where it lives, who it runs for.

mod cgroup;
mod container;
mod content;
mod core_dumps;
mod entry;
mod kubelet;
pub(crate) mod lines;
mod origin;
mod own_pod;
mod pods;
mod seen;
pub(crate) mod text;
mod version;
mod whereabouts;

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, open, openat2};

use self::cgroup::Cgroup;
pub(crate) use self::container::{Container, PodRef};
pub(crate) use self::content::{Content, ReadVersion};
use self::content::{named_interpreter, read};
pub(crate) use self::entry::{Entry, Root};
pub(crate) use self::origin::{Origin, Origins, Parent};
pub(crate) use self::own_pod::{LABELS, POD_NAMESPACE, Pod};
pub(crate) use self::pods::{NamedPod, Pods};
pub(crate) use self::text::Interpreter;
pub(crate) use self::version::Version;
pub(crate) use self::whereabouts::{First, Place, SharedWhereabouts, Whereabouts};

/// Nanoseconds of a tick, in which `/proc` tells times (`USER_HZ` is 100 on every machine that we run on).
const TICK_NS: u64 = 10_000_000;

/// A file, by where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    /// Device, in the kernel's encoding.
    pub(crate) dev: u32,
    /// Inode.
    pub(crate) ino: u64,
}

/// A script that the kernel was asked for. Its numbers are the kernel's own, and are what `stat` tells where a file system has
/// one device; where they are not (btrfs, an overlay over two file systems), the kernel compares the files.
#[derive(Clone, Copy)]
pub(crate) struct Script<'a> {
    pub(crate) id: FileId,
    pub(crate) is_executed: &'a dyn Fn(BorrowedFd<'_>) -> io::Result<bool>,
}

impl Script<'_> {
    /// Whether an open file is this script.
    pub(crate) fn is(self, file: impl AsFd) -> io::Result<bool> {
        Ok(file_id(&file)? == self.id || (self.is_executed)(file.as_fd())?)
    }
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

    fn number(self) -> u32 {
        self.pid
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// One of the short texts about it.
    fn text(self, name: &str) -> io::Result<Vec<u8>> {
        lines::whole(fs::File::open(self.file(name))?, lines::LONGEST_SHORT_TEXT)
    }

    /// Path of the file it executes, in its own mount namespace.
    pub(crate) fn executable(self) -> io::Result<PathBuf> {
        fs::read_link(self.file("exe"))
    }

    /// The file it executes: that very file, whatever its path now leads to; no more of it than `longest`. `None` when
    /// `is_wanted` no longer holds on the way. With the version that was read, and whether another content has another.
    pub(crate) fn executable_content(
        self,
        longest: u64,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<Option<(Content, ReadVersion)>> {
        let file = fs::File::open(self.file("exe"))?;
        let version = Version::of(&file.metadata()?);
        let tells = version.is_old() && version::is_told_of_changes(&file)?;
        let Some(content) = read(&file, longest, is_wanted)? else {
            return Ok(None);
        };
        let is_same = Version::of(&file.metadata()?) == version;
        Ok(Some((content, is_same.then_some((version, tells)))))
    }

    /// The version of that file.
    pub(crate) fn executable_version(self) -> io::Result<Version> {
        Ok(Version::of(&fs::metadata(self.file("exe"))?))
    }

    /// Whether a path in its own root leads to that script.
    pub(crate) fn is_script_at(self, path: &Path, script: Script<'_>) -> io::Result<bool> {
        script.is(self.open_at(path, OFlags::PATH | OFlags::CLOEXEC)?)
    }

    /// The script at a path in its own root, which must be the file of that identity.
    pub(crate) fn script(
        self,
        path: &Path,
        script: Script<'_>,
        longest: u64,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<Option<Content>> {
        read(&self.open_script(path, script)?, longest, is_wanted)
    }

    /// The interpreter that the same script names; `None` of what is no script.
    pub(crate) fn scripts_interpreter(
        self,
        path: &Path,
        script: Script<'_>,
    ) -> io::Result<Option<Interpreter>> {
        named_interpreter(self.open_script(path, script)?)
    }

    fn open_script(self, path: &Path, script: Script<'_>) -> io::Result<fs::File> {
        let file = self.open_to_read(path)?;
        if !script.is(&file)? {
            return Err(io::Error::other("its path leads to another file by now"));
        }
        Ok(file)
    }

    /// What its arguments begin with when the kernel has a script run by what its first line names (or by the
    /// interpreter of that script, and so on); `None` where another program runs. `path` is the script's, as it was executed.
    pub(crate) fn scripts_arguments(
        self,
        path: &[u8],
        interpreter: Interpreter,
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        /// How many interpreters an exec goes through and no more (`exec_binprm`).
        const DEEPEST: usize = 5;
        let executed = self.executable_file()?;
        // Each puts itself before what there is: the last comes first.
        let mut arguments = vec![path.to_owned()];
        let mut next = Some(interpreter);
        for _ in 0..DEEPEST {
            let Some(Interpreter { path, argument }) = next else {
                return Ok(None);
            };
            arguments.extend(argument);
            arguments.push(path.as_os_str().as_bytes().to_owned());
            if self.file_at(&path)? == executed {
                arguments.reverse();
                return Ok(Some(arguments));
            }
            next = named_interpreter(self.open_to_read(&path)?)?;
        }
        Ok(None)
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
        file_id(self.open_at(path, OFlags::PATH | OFlags::CLOEXEC)?)
    }

    fn open_to_read(self, path: &Path) -> io::Result<fs::File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.open_at(path, flags).map(Into::into)
    }

    fn open_at(self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        if path.is_absolute() {
            return self.open_in_root(path, flags);
        }
        // A path from the working directory is kept within the root by making it one from there.
        let from_root = self.working_directory().map(|base| base.join(path));
        if let Some(from_root) = from_root {
            return self.open_in_root(&from_root, flags);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(
            self.folder("cwd")?,
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    fn open_in_root(self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(
            self.folder("root")?,
            path.strip_prefix("/").unwrap_or(path),
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    fn folder(self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(open(self.file(name), flags, Mode::empty())?)
    }

    /// The path of its working directory in its own root; `None` where no path leads there any more.
    fn working_directory(self) -> Option<PathBuf> {
        // (both as its mount namespace has them, whatever our own root is)
        let root = fs::read_link(self.file("root")).ok()?;
        let path = fs::read_link(self.file("cwd")).ok()?;
        let path = Path::new("/").join(path.strip_prefix(root).ok()?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let there = file_id(self.open_in_root(&path, flags).ok()?).ok()?;
        let found = file_id(self.folder("cwd").ok()?).ok()?;
        (there == found).then_some(path)
    }

    /// Its control group, as our own control group namespace shows it.
    fn cgroup(self) -> io::Result<Cgroup> {
        Cgroup::parse(&self.text("cgroup")?)
            .ok_or_else(|| io::Error::other("it has no control group that tells where it lives"))
    }

    /// Bytes its stack may grow to.
    pub(crate) fn stack_limit(self) -> io::Result<u64> {
        text::stack_limit(&self.text("limits")?)
            .ok_or_else(|| io::Error::other("/proc/<pid>/limits has no stack size"))
    }

    /// Where its stack began when its program was started.
    pub(crate) fn start_stack(self) -> io::Result<u64> {
        text::start_stack(&self.text("stat")?)
            .ok_or_else(|| io::Error::other("/proc/<pid>/stat has no startstack"))
    }

    /// Whether it is a zombie, or gone. A state that cannot be read for another reason counts as running.
    pub(crate) fn has_ended(self) -> bool {
        match self.text("stat") {
            Ok(stat) => text::has_ended(&stat),
            Err(e) => is_gone(&e),
        }
    }

    /// When it started, as [`start_of_ns`] counts.
    pub(crate) fn started(self) -> io::Result<u64> {
        text::started(&self.text("stat")?)
            .ok_or_else(|| io::Error::other("/proc/<pid>/stat has no start time"))
    }

    /// Its name, of at most 15 bytes. It may be anything: the process sets it.
    pub(crate) fn comm(self) -> io::Result<Vec<u8>> {
        let mut name = self.text("comm")?;
        name.pop_if(|last| *last == b'\n');
        Ok(name)
    }

    /// Its effective user, in our user namespace; root's where it dumps no core.
    pub(crate) fn user(self) -> io::Result<u32> {
        Ok(fs::metadata(self.file("stat"))?.uid())
    }

    /// What its root is: the mount namespace, and the folder in it.
    pub(crate) fn root(self) -> io::Result<(u64, FileId)> {
        let namespace = fs::metadata(self.file("ns/mnt"))?.ino();
        Ok((namespace, file_id(self.folder("root")?)?))
    }

    /// Whether it started at that moment, on the boot clock, in nanoseconds.
    pub(crate) fn started_at(self, start_ns: u64) -> io::Result<bool> {
        let stat = self.text("stat")?;
        Ok(text::started(&stat) == Some(start_of_ns(start_ns)))
    }

    /// Whether what system calls it makes is filtered (seccomp).
    pub(crate) fn has_filter(self) -> io::Result<bool> {
        Ok(text::has_filter(&self.text("status")?))
    }

    /// The pid and the name of the process that traces it, if one does. The name is empty where the tracer ended while it was
    /// read: the pid may be another process's by then.
    pub(crate) fn tracer(self) -> Option<(u32, String)> {
        let pid = self.tracer_pid()?;
        let name = Self::new(pid).comm().unwrap_or_default();
        if self.tracer_pid() != Some(pid) {
            return Some((pid, String::new()));
        }
        Some((pid, String::from_utf8_lossy(&name).into_owned()))
    }

    fn tracer_pid(self) -> Option<u32> {
        text::tracer(&self.text("status").ok()?)
    }
}

/// A moment on the boot clock, of nanoseconds, as `/proc/<pid>/stat` has it: in ticks of a hundredth of a second.
pub(crate) fn start_of_ns(start_ns: u64) -> u64 {
    start_ns / TICK_NS
}

/// The processes of our PID namespace and of those below it.
pub(crate) fn all() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Whether that is said of a process that has ended.
pub(crate) fn is_gone(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(e), Some(Errno::NOENT | Errno::SRCH))
}

fn file_id(file: impl AsFd) -> io::Result<FileId> {
    let found = fstat(file)?;
    Ok(FileId {
        dev: kernel_dev(found.st_dev),
        ino: found.st_ino,
    })
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
    fn has_ended_of_a_process_that_is_gone_is_true() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::new(child.id());
        child.wait().unwrap();
        assert!(process.has_ended());
        assert!(!Process::new(std::process::id()).has_ended());
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
