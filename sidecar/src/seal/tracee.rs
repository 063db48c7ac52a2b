//! A process we are attached to, and the thread that is: for the kernel a tracer is a thread, and nobody else may do what
//! it may.

use std::{io, sync::mpsc, thread};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::held::{HoldError, os};

/// Stops that may come before an exec: the system call's begin, signals that came meanwhile.
const STOPS_BEFORE_EXEC: u32 = 64;
/// Of a thread that makes a few system calls, in bytes.
const TRACER_STACK: usize = 64 * 1024;

/// A process that this thread is attached to. Dropped, it is killed.
pub(super) struct Tracee {
    pid: Pid,
    /// This thread is attached to nobody else.
    is_only: bool,
    /// Signals that came while we held it, and are still due.
    owed: Vec<Signal>,
    /// It has been let go, or has ended: the number may be another's by now.
    is_settled: bool,
}

impl Tracee {
    /// Attaches, and stops it. The kernel keeps us waiting while an exec of the process is under way
    /// (`ptrace_attach` takes `cred_guard_mutex`).
    pub(super) fn seize(pid: Pid, options: ptrace::Options) -> Result<Self, HoldError> {
        Self::begin(pid, options, false)
    }

    fn begin(pid: Pid, options: ptrace::Options, is_only: bool) -> Result<Self, HoldError> {
        ptrace::seize(pid, options).map_err(os("attach"))?;
        let mut tracee = Self {
            pid,
            is_only,
            owed: Vec::new(),
            is_settled: false,
        };
        let interrupted = ptrace::interrupt(pid);
        tracee.check("interrupt", interrupted)?;
        tracee.wait()?;
        Ok(tracee)
    }

    /// Its next change. When another of its threads executes, the kernel changes numbers before it wakes who waits for one
    /// (`de_thread`): where that may be, we wait for whomever this thread traces.
    fn next(&self) -> nix::Result<WaitStatus> {
        if self.is_only {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            waitpid(None, Some(flags))
        } else {
            waitpid(self.pid, Some(WaitPidFlag::__WALL))
        }
    }

    /// What came of a request. One that is gone is waited for: only then it is known that its number is not that of what
    /// another of its threads executed.
    fn check<T>(&mut self, what: &'static str, result: nix::Result<T>) -> Result<T, HoldError> {
        if matches!(result, Err(Errno::ESRCH)) && self.is_only {
            self.see_end();
            self.is_settled = true;
        }
        result.map_err(os(what))
    }

    fn wait(&mut self) -> Result<Stop, HoldError> {
        match self.next() {
            Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC)) => Ok(Stop::Exec),
            // (`EINVAL`: a real-time signal, for which there is no name here; it is lost)
            Ok(WaitStatus::PtraceEvent(..)) | Err(Errno::EINVAL) => Ok(Stop::Other),
            Ok(WaitStatus::PtraceSyscall(_)) => Ok(Stop::SystemCall),
            Ok(WaitStatus::Stopped(_, signal)) => {
                // what holds it is the kernel side's; any other signal is the program's
                if signal != Signal::SIGSTOP && signal != Signal::SIGCONT {
                    self.owed.push(signal);
                }
                Ok(Stop::Other)
            }
            Ok(_) | Err(Errno::ECHILD) => {
                self.is_settled = true;
                Err(HoldError::Gone)
            }
            Err(e) => Err(os("wait")(e)),
        }
    }

    /// Lets it begin its exec and stops it at the event of that, before its first instruction. Where the exec fails it
    /// stands at the end of that system call.
    pub(super) fn see_through_exec(&mut self) -> Result<(), HoldError> {
        for _ in 0..STOPS_BEFORE_EXEC {
            let continued = ptrace::syscall(self.pid, None);
            self.check("continue", continued)?;
            match self.wait()? {
                Stop::Exec => return Ok(()),
                Stop::SystemCall if self.has_left_a_system_call()? => break,
                Stop::SystemCall | Stop::Other => {}
            }
        }
        Err(HoldError::NotExecuted)
    }

    fn has_left_a_system_call(&mut self) -> Result<bool, HoldError> {
        let info = ptrace::syscall_info(self.pid);
        let info = self.check("look at its system call", info)?;
        Ok(info.op == libc::PTRACE_SYSCALL_INFO_EXIT)
    }

    /// Hands on the signals that it is owed.
    pub(super) fn pay(&mut self) -> Result<(), HoldError> {
        for signal in self.owed.drain(..) {
            kill(self.pid, signal).map_err(os("hand on a signal"))?;
        }
        Ok(())
    }

    /// Lets go of it.
    pub(super) fn detach(&mut self) -> Result<(), HoldError> {
        self.pay()?;
        let detached = ptrace::detach(self.pid, None);
        self.check("detach", detached)?;
        self.is_settled = true;
        Ok(())
    }

    /// Kills it, if it was not let go. Its end is reported to us first, and only then to its parent.
    pub(super) fn kill(&mut self) {
        if self.is_settled {
            return;
        }
        self.is_settled = true;
        if kill(self.pid, Signal::SIGKILL).is_ok() {
            self.see_end();
        }
    }

    /// Waits for its end.
    fn see_end(&self) {
        while matches!(
            self.next(),
            Ok(WaitStatus::PtraceEvent(..)
                | WaitStatus::Stopped(..)
                | WaitStatus::PtraceSyscall(_))
                | Err(Errno::EINTR | Errno::EINVAL)
        ) {}
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a tracee stopped for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// An exec's event: the new program is in place and has not begun.
    Exec,
    /// The begin or the end of a system call.
    SystemCall,
    Other,
}

type Job = Box<dyn FnOnce(&mut Tracee) + Send>;

/// A [`Tracee`], and how to have its thread do something.
pub(super) enum Traced {
    /// It is this thread's.
    Here(Tracee),
    /// It is that of a thread of its own.
    There(Tracer),
}

impl Traced {
    /// Has its thread do something, and waits for that.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Tracee) -> Result<T, HoldError> + Send + 'static,
    ) -> Result<T, HoldError> {
        match self {
            Self::Here(tracee) => job(tracee),
            Self::There(tracer) => {
                let (answer, answered) = mpsc::sync_channel(1);
                tracer.begin(move |tracee| drop(answer.send(job(tracee))));
                answered.recv().unwrap_or_else(|_| Err(lost()))
            }
        }
    }
}

/// A thread of one process's own, which is attached to it and waits for it as long as it takes. Dropped, it ends, and so does the
/// process, if it was not let go; one of which nothing was asked is let go.
pub(super) struct Tracer(mpsc::Sender<Job>);

impl Tracer {
    /// Begins to attach. `begun` hears of it, on that thread.
    pub(super) fn start(
        pid: Pid,
        options: ptrace::Options,
        begun: impl FnOnce(Result<(), HoldError>) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, given) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("tracer".into())
            .stack_size(TRACER_STACK)
            .spawn(move || match Tracee::begin(pid, options, true) {
                Ok(mut tracee) => {
                    begun(Ok(()));
                    let mut is_wanted = false;
                    for job in given {
                        is_wanted = true;
                        job(&mut tracee);
                    }
                    // (it may not be the one that was meant, but the next of its number)
                    if !is_wanted {
                        let _ = tracee.detach();
                    }
                }
                Err(e) => begun(Err(e)),
            })?;
        Ok(Self(jobs))
    }

    /// Has it do something, and does not wait.
    pub(super) fn begin(&self, job: impl FnOnce(&mut Tracee) + Send + 'static) {
        // (one that has ended drops the job, and with it whatever would answer)
        let _ = self.0.send(Box::new(job));
    }
}

/// A tracer's thread is gone, which no one ended.
pub(super) fn lost() -> HoldError {
    HoldError::Os {
        what: "ask its tracer",
        cause: io::ErrorKind::BrokenPipe.into(),
    }
}
