//! Mount namespaces: the thread that delivers enters them, to mount and to take away.
//!
//! Of each in which a sealed tree lives one descriptor is kept, so that it is there to be entered when the tree has ended; not
//! of more than there is room for. Others are looked for among the processes, when they are needed.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io,
    ops::ControlFlow,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, open, openat};

use crate::{
    limits,
    process::{self, lines},
};

/// Which part of all descriptors may be of namespaces.
const PART: u64 = 4;
/// Namespaces that are looked for at a time.
const AT_A_TIME: usize = 64;

/// A mount namespace.
pub(super) struct Namespace {
    file: File,
    inode: u64,
}

impl Namespace {
    /// Its number, as long as it lives.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }
}

/// That of a process.
pub(super) fn namespace_of(pid: u32) -> io::Result<Namespace> {
    let file = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let inode = file.metadata()?.ino();
    Ok(Namespace { file, inode })
}

/// Each thread has its root and its working directory in common with the one that started it. Who changes the one or the other
/// has them alone: two that take mounts away by their working directory would take each other's.
fn be_alone() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_FS)?)
}

/// Runs something in our own namespace.
fn at_home<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    be_alone()?;
    work()
}

/// What there is of a process; one that is gone, or nearly, is in no namespace.
fn living<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if process::is_gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// See the module.
pub(super) struct Views {
    home: Namespace,
    /// Our thread's folder in `/proc`, which leads there from every namespace.
    thread: OwnedFd,
    kept: HashMap<u64, Kept>,
    /// How many descriptors are among those.
    open: usize,
    most: usize,
    /// Of the last look for what no descriptor is kept of.
    found: HashMap<u64, File>,
    looked_at: BTreeSet<u64>,
}

/// A namespace in which secret directories are.
#[derive(Default)]
struct Kept {
    file: Option<File>,
    vaults: usize,
}

impl Views {
    /// Of the calling thread, which is one of so many.
    pub(super) fn new(of: usize) -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/mnt")?;
        let inode = file.metadata()?.ino();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            home: Namespace { file, inode },
            thread: open("/proc/thread-self", flags, Mode::empty())?,
            kept: HashMap::new(),
            open: 0,
            most: usize::try_from(limits::descriptors() / PART).unwrap_or(usize::MAX) / of,
            found: HashMap::new(),
            looked_at: BTreeSet::new(),
        })
    }

    /// A secret directory is there.
    pub(super) fn keep(&mut self, namespace: Namespace) {
        let Namespace { file, inode } = namespace;
        self.add(inode, || Some(file));
    }

    /// The same.
    pub(super) fn keep_another(&mut self, namespace: &Namespace) {
        self.add(namespace.inode, || namespace.file.try_clone().ok());
    }

    fn add(&mut self, inode: u64, file: impl FnOnce() -> Option<File>) {
        if inode == self.home.inode {
            return;
        }
        let kept = self.kept.entry(inode).or_default();
        kept.vaults += 1;
        if kept.file.is_none() && self.open < self.most {
            kept.file = file();
            self.open += usize::from(kept.file.is_some());
        }
    }

    /// One directory less is there.
    pub(super) fn release(&mut self, inode: u64) {
        let Some(kept) = self.kept.get_mut(&inode) else {
            return;
        };
        kept.vaults -= 1;
        if kept.vaults == 0 {
            self.open -= usize::from(kept.file.is_some());
            self.kept.remove(&inode);
        }
    }

    /// Whether a process is in one that was not asked for before. (Where that cannot be told, it is.)
    pub(super) fn is_new_of(&mut self, pid: u32) -> bool {
        match living(std::fs::metadata(format!("/proc/{pid}/ns/mnt"))) {
            Ok(Some(found)) => self.looked_at.insert(found.ino()),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Whether there is no descriptor to enter it by.
    pub(super) fn is_unknown(&self, inode: u64) -> bool {
        inode != self.home.inode && self.file(inode).is_none()
    }

    fn file(&self, inode: u64) -> Option<&File> {
        let kept = self.kept.get(&inode).and_then(|kept| kept.file.as_ref());
        kept.or_else(|| self.found.get(&inode))
    }

    /// Looks for some of these among the processes; true if nobody is in those that it did not find.
    pub(super) fn look_for(&mut self, wanted: &BTreeSet<u64>) -> io::Result<bool> {
        self.found.clear();
        for pid in process::all()? {
            if self.found.len() == wanted.len() {
                return Ok(true);
            }
            if self.found.len() == AT_A_TIME {
                return Ok(false);
            }
            let Some(inode) = living(std::fs::metadata(format!("/proc/{pid}/ns/mnt")))? else {
                continue;
            };
            let is_wanted = |inode| wanted.contains(&inode) && !self.found.contains_key(&inode);
            if !is_wanted(inode.ino()) {
                continue;
            }
            if let Some(Namespace { file, inode }) = living(namespace_of(pid))?
                && is_wanted(inode)
            {
                self.found.insert(inode, file);
            }
        }
        Ok(true)
    }

    /// The last look is over.
    pub(super) fn close_found(&mut self) {
        self.found.clear();
    }

    /// Runs something in a namespace that is known by its number.
    pub(super) fn within_kept<T>(
        &self,
        inode: u64,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if inode == self.home.inode {
            return at_home(work);
        }
        let file = self.file(inode).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "nobody is in its mount namespace")
        })?;
        self.enter(file, work)
    }

    /// Runs something in another mount namespace.
    pub(super) fn within<T>(
        &self,
        namespace: &Namespace,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if namespace.inode == self.home.inode {
            return at_home(work);
        }
        self.enter(&namespace.file, work)
    }

    /// Coming back cannot fail without ending the agent: a thread astray in an application's files is worse than none.
    fn enter<T>(&self, namespace: &File, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        be_alone()?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        let result = work();
        if let Err(e) = setns(&self.home.file, CloneFlags::CLONE_NEWNS) {
            tracing::error!("cannot return to our own mount namespace: {e}; ending");
            std::process::abort();
        }
        result
    }

    /// Looks at each mount of the namespace that we are in, a line of `mountinfo`. (Paths need not be UTF-8; ours are.)
    pub(super) fn mounts(&self, mut look: impl FnMut(&str)) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.thread, "mountinfo", flags, Mode::empty())?;
        lines::each_line(File::from(file), lines::LONGEST_TEXT, |line| {
            if let Ok(line) = std::str::from_utf8(line) {
                look(line);
            }
            ControlFlow::Continue(())
        })
    }
}
