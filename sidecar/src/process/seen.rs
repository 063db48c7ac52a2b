//! Processes that nobody holds, as `/proc` shows them.

use std::{
    fs, io,
    ops::ControlFlow,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

use super::{cgroup::Cgroup, kubelet::Mounted, lines, text};

/// How far a process's mounts are looked at for the kubelet's, in bytes: some thousands.
const LONGEST_MOUNTINFO: u64 = 1024 * 1024;

/// A process that is not held: its folder in `/proc` is its own, and empty once it is gone, whoever has its
/// number by then.
pub(super) struct Seen(OwnedFd);

impl Seen {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{pid}");
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    pub(super) fn file(&self, name: &str) -> io::Result<fs::File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::empty())?.into())
    }

    /// Its folder, which stays its own.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        lines::whole(self.file(name)?, lines::LONGEST_SHORT_TEXT)
    }

    pub(super) fn cgroup(&self) -> io::Result<Option<Cgroup>> {
        Ok(Cgroup::parse(&self.read("cgroup")?))
    }

    pub(super) fn parent(&self) -> io::Result<Option<u32>> {
        Ok(text::parent(&self.read("status")?))
    }

    /// The first of what the kubelet mounted there that is wanted.
    pub(super) fn find_mounted(
        &self,
        is_wanted: impl Fn(&Mounted) -> bool,
    ) -> io::Result<Option<Mounted>> {
        let mut found = None;
        let mountinfo = self.file("mountinfo").map_err(|e| {
            // of a process that is ending: it has no namespaces any more (`mounts_open_common` in fs/proc_namespace.c)
            if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
                Errno::SRCH.into()
            } else {
                e
            }
        })?;
        let read = lines::each_line(mountinfo, LONGEST_MOUNTINFO, |line| {
            found = Mounted::all(line).find(&is_wanted);
            match found {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        });
        match read {
            // (what a container's runtime mounted comes first)
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Ok(None),
            read => read.map(|()| found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_process_that_has_ended_are_gone() {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        // (a zombie: its number and its folder stay)
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .unwrap();
        let found = Seen::open(child.id()).unwrap().find_mounted(|_| true);
        child.wait().unwrap();
        let Err(e) = found else {
            panic!("a zombie has mounts");
        };
        assert!(super::super::is_gone(&e), "{e}");
    }
}
