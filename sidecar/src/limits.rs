//! How many descriptors this process may have. What is usual, 1,024, is for programs that use `select`.

use std::{
    fs::File,
    io,
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// What a process is given that nobody told otherwise.
const USUAL: u64 = 1024;
/// More than anybody needs here. (What has no limit is divided by others.)
const MOST: u64 = 1 << 20;
/// Descriptors that are there for programs that are held when there are no others: for all threads that deliver, and for each
/// of them at least.
const IN_RESERVE: usize = 48;
const IN_RESERVE_LEAST: usize = 16;

/// What it was when we began.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit as far as we may. To be called once, when nothing runs beside.
pub(crate) fn raise() {
    let before = *BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of descriptors stays as it is: {e}");
    }
}

/// How many there may be.
pub(crate) fn descriptors() -> u64 {
    getrlimit(Resource::Nofile)
        .current
        .map_or(MOST, |limit| limit.min(MOST))
        .max(1)
}

/// Gives a child process the limit that we were given.
pub(crate) fn restore(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some((pid, before)) = pid.zip(BEFORE.get()) {
        // (it may have ended)
        let _ = prlimit(Some(pid), Resource::Nofile, *before);
    }
}

/// Runs a child process to its end, with the limit that we were given.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    restore(&child);
    child.wait_with_output()
}

/// Descriptors that are kept for the moment when there are no others.
pub(crate) struct Reserve {
    one: File,
    more: Vec<File>,
    size: usize,
}

impl Reserve {
    /// One of so many.
    pub(crate) fn new(of: usize) -> io::Result<Self> {
        let mut reserve = Self {
            one: File::open("/dev/null")?,
            more: Vec::new(),
            size: (IN_RESERVE / of).max(IN_RESERVE_LEAST),
        };
        reserve.fill();
        Ok(reserve)
    }

    fn fill(&mut self) {
        while self.more.len() < self.size && descriptors() > USUAL / 4 {
            match self.one.try_clone() {
                Ok(another) => self.more.push(another),
                Err(_) => return,
            }
        }
    }

    /// Takes new ones, if they were given up.
    pub(crate) fn refill(&mut self) {
        if self.more.is_empty() {
            self.fill();
        }
    }

    /// There are no others.
    pub(crate) fn give_up(&mut self) {
        self.more.clear();
    }

    /// Gives them up if there are no others; takes new ones when there are. False where there are none now.
    pub(crate) fn see_to_it(&mut self) -> bool {
        match self.one.try_clone() {
            Ok(_) => self.refill(),
            Err(e) if is_for_lack(&e) => {
                self.give_up();
                return self.one.try_clone().is_ok();
            }
            Err(_) => {}
        }
        true
    }
}

/// The same error once more.
pub(crate) fn same(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(
        || io::Error::new(e.kind(), e.to_string()),
        io::Error::from_raw_os_error,
    )
}

/// Whether it is for want of descriptors or memory: another time it may go well.
pub(crate) fn is_for_lack(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(e),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
    )
}
