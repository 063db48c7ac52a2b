//! A process that this thread is attached to.

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

use super::{
    deadline::Deadline,
    held::{HoldError, os},
    registers::Registers,
};

/// Stops that may come before an exec: the system call's begin, signals that came meanwhile.
const STOPS_BEFORE_EXEC: u32 = 64;

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
        let mut tracee = Self::begin(pid, options, false)?;
        tracee.stop()?;
        Ok(tracee)
    }

    /// Attaches, and leaves it to what it is at: with `PTRACE_O_TRACEEXEC` it stops behind its exec. `None` where the kernel
    /// keeps us waiting for longer than we have.
    pub(super) fn follow(
        pid: Pid,
        options: ptrace::Options,
        deadline: &mut Deadline,
    ) -> Result<Option<Self>, HoldError> {
        match deadline.seize(pid, options) {
            Ok(()) => Ok(Some(Self::new(pid, false))),
            Err(Errno::EINTR) => Ok(None),
            Err(e) => Err(os("attach")(e)),
        }
    }

    pub(super) fn begin(
        pid: Pid,
        options: ptrace::Options,
        is_only: bool,
    ) -> Result<Self, HoldError> {
        ptrace::seize(pid, options).map_err(os("attach"))?;
        Ok(Self::new(pid, is_only))
    }

    fn new(pid: Pid, is_only: bool) -> Self {
        Self {
            pid,
            is_only,
            owed: Vec::new(),
            is_settled: false,
        }
    }

    fn stop(&mut self) -> Result<Stop, HoldError> {
        let interrupted = ptrace::interrupt(self.pid);
        self.check("interrupt", interrupted)?;
        self.wait()
    }

    /// What it has come to since it is followed. A signal for the program before its exec is handed on. `process` is its process's
    /// number, which a thread that executes takes over.
    pub(super) fn look(&mut self, process: Pid) -> Result<Progress, HoldError> {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            match waitpid(self.pid, Some(flags)) {
                Ok(WaitStatus::StillAlive) => return Ok(Progress::Running),
                Ok(WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC)) => {
                    self.pid = pid;
                    return Ok(Progress::Executed);
                }
                Ok(WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_)) => {
                    return Ok(Progress::Trapped);
                }
                Ok(WaitStatus::Stopped(_, signal)) => {
                    let handed_on = match signal {
                        // (the kernel side's, or one that would do nothing to who is not stopped)
                        Signal::SIGCONT => None,
                        // (a stop of one that is traced is more than a signal; it is due when we have let go)
                        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => {
                            self.owed.push(signal);
                            None
                        }
                        signal => Some(signal),
                    };
                    self.go_on(handed_on)?;
                }
                // (a real-time signal, for which there is no name here; it is lost)
                Err(Errno::EINVAL) => self.go_on(None)?,
                Err(Errno::EINTR) => {}
                // its process has its number by now
                Err(Errno::ECHILD) if self.pid != process => self.pid = process,
                Ok(WaitStatus::Exited(..)) => {
                    self.is_settled = true;
                    return Err(HoldError::NotExecuted);
                }
                Ok(_) | Err(Errno::ECHILD) => {
                    self.is_settled = true;
                    return Err(HoldError::Gone);
                }
                Err(e) => return Err(os("wait")(e)),
            }
        }
    }

    /// Lets it run on, attached as we are. (One that was killed meanwhile is waited for.)
    pub(super) fn go_on(&mut self, signal: Option<Signal>) -> Result<(), HoldError> {
        match ptrace::cont(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(os("continue")(e)),
        }
    }

    /// Has it stop when it is not in the middle of a system call, of which [`look`](Self::look) then tells.
    pub(super) fn interrupt(&mut self) -> Result<(), HoldError> {
        match ptrace::interrupt(self.pid) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(os("interrupt")(e)),
        }
    }

    /// Takes a pending `SIGCONT` from it: a stop that we send takes its place, and is not delivered. It stands before its first
    /// instruction, and still does then.
    pub(super) fn take_continue(&mut self) -> Result<(), HoldError> {
        kill(self.pid, Signal::SIGSTOP).map_err(os("stop"))?;
        let mut signal = None;
        for _ in 0..STOPS_BEFORE_EXEC {
            let continued = ptrace::cont(self.pid, signal);
            self.check("continue", continued)?;
            signal = match self.next() {
                Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => return Ok(()),
                Ok(WaitStatus::Stopped(_, other)) => Some(other),
                Ok(WaitStatus::PtraceEvent(..)) | Err(Errno::EINVAL | Errno::EINTR) => None,
                Ok(_) | Err(Errno::ECHILD) => {
                    self.is_settled = true;
                    return Err(HoldError::Gone);
                }
                Err(e) => return Err(os("wait")(e)),
            };
        }
        Ok(())
    }

    /// Waits for its next change of state. When another thread of its process executes, that thread takes over the pid (`de_thread`),
    /// and a wait for the old number would miss it. A tracer with one tracee therefore waits for any that it traces.
    fn next(&self) -> nix::Result<WaitStatus> {
        if self.is_only {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            waitpid(None, Some(flags))
        } else {
            waitpid(self.pid, Some(WaitPidFlag::__WALL))
        }
    }

    /// The result of a ptrace request. After `ESRCH` it waits for the tracee's end: until then the pid may be that of a thread of the
    /// same process that executed.
    fn check<T>(&mut self, what: &'static str, result: nix::Result<T>) -> Result<T, HoldError> {
        if matches!(result, Err(Errno::ESRCH)) && self.is_only {
            self.see_end();
            self.is_settled = true;
        }
        result.map_err(os(what))
    }

    fn wait(&mut self) -> Result<Stop, HoldError> {
        match self.next() {
            Ok(WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC)) => {
                // (a thread that executes takes its process's number)
                self.pid = pid;
                Ok(Stop::Exec)
            }
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
            // (what is held does not end by itself: its exec has failed)
            Ok(WaitStatus::Exited(..)) => {
                self.is_settled = true;
                Err(HoldError::NotExecuted)
            }
            Ok(_) | Err(Errno::ECHILD) => {
                self.is_settled = true;
                Err(HoldError::Gone)
            }
            Err(e) => Err(os("wait")(e)),
        }
    }

    /// Stops it at the event of its exec, before its first instruction. Where the exec fails it
    /// stands at the end of that system call.
    pub(super) fn see_through_exec(&mut self) -> Result<(), HoldError> {
        if self.stop()? == Stop::Exec {
            return Ok(());
        }
        for _ in 0..STOPS_BEFORE_EXEC {
            let continued = ptrace::syscall(self.pid, None);
            self.check("continue", continued)?;
            match self.wait()? {
                Stop::Exec => return Ok(()),
                // (at the begin of another: it executed before we were there, or a handler of a signal runs. That other call may take
                // any time.)
                Stop::SystemCall if self.has_left_a_system_call()? || !self.is_executing()? => {
                    break;
                }
                Stop::SystemCall | Stop::Other => {}
            }
        }
        Err(HoldError::NotExecuted)
    }

    /// Lets it run to the begin or the end of a system call. Signals that come meanwhile are owed. (`PTRACE_O_TRACESYSGOOD` tells such
    /// a stop from a signal.)
    pub(super) fn run_to_system_call(&mut self) -> Result<(), HoldError> {
        for _ in 0..STOPS_BEFORE_EXEC {
            let continued = ptrace::syscall(self.pid, None);
            self.check("continue", continued)?;
            if self.wait()? == Stop::SystemCall {
                return Ok(());
            }
        }
        Err(HoldError::MovedOn)
    }

    /// Whether it stands at the end of a system call.
    pub(super) fn has_left_a_system_call(&mut self) -> Result<bool, HoldError> {
        let info = ptrace::syscall_info(self.pid);
        let info = self.check("look at its system call", info)?;
        Ok(info.op == libc::PTRACE_SYSCALL_INFO_EXIT)
    }

    /// Whether the system call at whose begin it stands may be an exec.
    fn is_executing(&mut self) -> Result<bool, HoldError> {
        let registers = Registers::read(self.pid);
        Ok(self.check("read registers", registers)?.is_executing())
    }

    /// Whether it stands behind an exec that was interrupted, and begins it anew.
    pub(super) fn executes_anew(&mut self) -> Result<bool, HoldError> {
        let registers = Registers::read(self.pid);
        Ok(self.check("read registers", registers)?.executes_anew())
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

/// What one that is followed has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It stands behind its exec.
    Executed,
    /// It stands elsewhere, before or behind a system call.
    Trapped,
    /// It runs, or waits for something.
    Running,
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
