//! A program that stands before its first instruction, and the only two ways on from there.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace,
        signal::{Signal, kill},
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use sidecar_common::policy::{HELD_COMING, Held};
use zeroize::Zeroizing;

use crate::process::Process;

use super::{
    registers::Registers,
    stack::{Rebuilt, Stack, StackError},
};

/// First read of a stack, in bytes: enough for most environments, and no more to wipe than needed.
const STACK_READ: usize = 4 * 1024;
/// More than arguments, variables and the kernel's own words can take.
const STACK_MAX: usize = 8 * 1024 * 1024;
/// Stops that may come before an exec: the system call's begin, signals that came meanwhile.
const STOPS_BEFORE_EXEC: u32 = 64;

/// Why a program could not be taken hold of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    /// It ended meanwhile.
    #[error("it ended while it was held")]
    Gone,
    /// It is not where it was when the kernel side stopped it.
    #[error("it is no longer at the start of the exec that was held")]
    MovedOn,
    /// The exec that it was coming to failed, or was given up: it goes on as what it was.
    #[error("its exec did not take place")]
    NotExecuted,
    /// The kernel refused.
    #[error("{what}: {cause}")]
    Os {
        /// What we did.
        what: &'static str,
        /// What it said.
        cause: io::Error,
    },
}

fn os(what: &'static str) -> impl FnOnce(Errno) -> HoldError {
    move |cause| match cause {
        Errno::ESRCH | Errno::ECHILD => HoldError::Gone,
        cause => HoldError::Os {
            what,
            cause: cause.into(),
        },
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> HoldError {
    move |cause| match cause.raw_os_error() {
        Some(libc::ESRCH) => HoldError::Gone,
        _ => HoldError::Os { what, cause },
    }
}

/// A held program with us attached. It is released or killed; dropped, it is killed.
pub(crate) struct HeldTask {
    tracee: Tracee,
    registers: Registers,
    stack: StackCopy,
}

impl HeldTask {
    /// Attaches, and makes sure that this is the exec that was held and that nothing of it has run.
    /// To one that is coming, `announce` says that we are attached, and we see it through its exec.
    /// With `dies_with_us` it does not outlive us: under a terminal it would go on without secrets.
    pub(crate) fn attach<E>(
        held: &Held,
        dies_with_us: bool,
        announce: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, HoldError> {
        let is_coming = held.flags & HELD_COMING != 0;
        let mut options = ptrace::Options::empty();
        options.set(ptrace::Options::PTRACE_O_TRACEEXEC, is_coming);
        options.set(ptrace::Options::PTRACE_O_TRACESYSGOOD, is_coming);
        options.set(ptrace::Options::PTRACE_O_EXITKILL, dies_with_us);
        let mut tracee = Tracee::seize(Pid::from_raw(held.pid.cast_signed()), options)?;
        tracee.interrupt()?;
        if is_coming {
            // (the kernel side has forgotten one that executed something else meanwhile)
            if announce().is_err() {
                tracee.detach()?;
                return Err(HoldError::NotExecuted);
            }
            tracee = tracee.see_through_exec()?;
        }
        // (the kernel side does not know it where a record overtook the end of the exec)
        let stack = match held.stack {
            0 => Process::new(held.pid)
                .start_stack()
                .map_err(io_error("find its stack"))?,
            stack => stack,
        };
        let registers = tracee.registers()?;
        if registers.stack_pointer() != stack {
            return Err(HoldError::MovedOn);
        }
        let stack = tracee.read_stack(stack)?;
        Ok(Self {
            tracee,
            registers,
            stack,
        })
    }

    /// The program's initial stack.
    pub(crate) fn stack(&self) -> Result<Stack<'_>, StackError> {
        let word = self.registers.word().ok_or(StackError::Narrow)?;
        Stack::parse(self.stack.bytes(), self.registers.stack_pointer(), word)
    }

    /// Puts a rebuilt stack in place.
    pub(crate) fn write(&mut self, rebuilt: &Rebuilt) -> Result<(), HoldError> {
        // All of it or nothing: the pointer moves when every byte is there.
        self.tracee.write(&rebuilt.block, rebuilt.pointer)?;
        self.registers.set_stack_pointer(rebuilt.pointer);
        let written = self.registers.write(self.tracee.pid);
        written.map_err(os("write registers"))
    }

    /// Lets the program run. `forget` takes it off the books, at the one moment when it neither
    /// runs (and could be held anew) nor stays stopped should we die.
    pub(crate) fn release<E>(
        self,
        forget: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), HoldError> {
        self.tracee.release(forget)
    }

    /// Ends the program.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

/// A copy of a program's stack. It may hold secrets, its parent's for one, and is wiped; in words,
/// because wiping goes element by element, and every start pays for it.
struct StackCopy {
    words: Zeroizing<Vec<u64>>,
    have: usize,
}

impl StackCopy {
    fn new() -> Self {
        Self {
            words: Zeroizing::new(vec![0; STACK_READ / size_of::<u64>()]),
            have: 0,
        }
    }

    /// What was read.
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.have]
    }

    /// Room for more; grown where there is none.
    fn room(&mut self) -> &mut [u8] {
        if self.have == self.words.len() * size_of::<u64>() {
            // A new one: a vector that grows leaves its old memory unwiped.
            let mut larger = Zeroizing::new(vec![0; self.words.len() * 4]);
            larger[..self.words.len()].copy_from_slice(&self.words);
            self.words = larger;
        }
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.have..]
    }
}

/// A process we are attached to.
struct Tracee {
    pid: Pid,
    /// A signal that came while we held it, and is still due.
    owed: Option<Signal>,
    is_settled: bool,
}

impl Tracee {
    fn seize(pid: Pid, options: ptrace::Options) -> Result<Self, HoldError> {
        ptrace::seize(pid, options).map_err(os("attach"))?;
        Ok(Self {
            pid,
            owed: None,
            is_settled: false,
        })
    }

    /// Stops it.
    fn interrupt(&mut self) -> Result<(), HoldError> {
        ptrace::interrupt(self.pid).map_err(os("interrupt"))?;
        self.wait().map(drop)
    }

    fn wait(&mut self) -> Result<Stop, HoldError> {
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(os("wait"))? {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => Ok(Stop::Exec),
            WaitStatus::PtraceEvent(..) => Ok(Stop::Other),
            WaitStatus::PtraceSyscall(_) => Ok(Stop::SystemCall),
            WaitStatus::Stopped(_, signal) => {
                // what holds it is the kernel side's; any other signal is the program's
                if signal != Signal::SIGSTOP && signal != Signal::SIGCONT {
                    self.owed = Some(signal);
                }
                Ok(Stop::Other)
            }
            _ => Err(HoldError::Gone),
        }
    }

    fn registers(&self) -> Result<Registers, HoldError> {
        Registers::read(self.pid).map_err(os("read registers"))
    }

    /// Reads what is mapped of its memory from there on. (Spares a descriptor, and every start what that costs.)
    fn read(&self, to: &mut [u8], from: u64) -> nix::Result<usize> {
        let len = to.len();
        let base = usize::try_from(from).map_err(|_| Errno::EFAULT)?;
        process_vm_readv(
            self.pid,
            &mut [IoSliceMut::new(to)],
            &[RemoteIoVec { base, len }],
        )
    }

    /// Writes to its stack, which grows for that where it has to.
    fn write(&self, bytes: &[u8], at: u64) -> Result<(), HoldError> {
        let len = bytes.len();
        if let Ok(base) = usize::try_from(at)
            && process_vm_writev(
                self.pid,
                &[IoSlice::new(bytes)],
                &[RemoteIoVec { base, len }],
            ) == Ok(len)
        {
            return Ok(());
        }
        // Only by this file a stack grows from outside (since 6.5).
        let written = open_memory(self.pid)?.write_all_at(bytes, at);
        written.map_err(io_error("write its stack"))
    }

    /// The stack from its pointer to its end.
    fn read_stack(&self, from: u64) -> Result<StackCopy, HoldError> {
        let mut copy = StackCopy::new();
        while copy.have < STACK_MAX {
            let at = from + copy.have as u64;
            let room = copy.room();
            let wanted = room.len();
            match self.read(room, at) {
                Ok(0) => break,
                Ok(n) => {
                    copy.have += n;
                    // less than there was room for: the end of the mapping
                    if n < wanted {
                        break;
                    }
                }
                // the end of the mapping
                Err(Errno::EFAULT) if copy.have > 0 => break,
                Err(e) => return Err(os("read its stack")(e)),
            }
        }
        Ok(copy)
    }

    /// Lets it begin its exec and stops it at the event of that, before its first instruction. Where
    /// the exec fails we let go of it.
    fn see_through_exec(mut self) -> Result<Self, HoldError> {
        for _ in 0..STOPS_BEFORE_EXEC {
            ptrace::syscall(self.pid, None).map_err(os("continue"))?;
            match self.wait()? {
                Stop::Exec => return Ok(self),
                Stop::SystemCall if self.has_left_a_system_call()? => break,
                Stop::SystemCall | Stop::Other => {}
            }
        }
        self.detach()?;
        Err(HoldError::NotExecuted)
    }

    fn has_left_a_system_call(&self) -> Result<bool, HoldError> {
        let info = ptrace::syscall_info(self.pid).map_err(os("look at its system call"))?;
        Ok(info.op == libc::PTRACE_SYSCALL_INFO_EXIT)
    }

    fn release<E>(mut self, forget: impl FnOnce() -> Result<(), E>) -> Result<(), HoldError> {
        self.pay()?;
        // In this order: should we die in between and it live on, it runs.
        kill(self.pid, Signal::SIGCONT).map_err(os("continue"))?;
        if forget().is_err() {
            return Err(HoldError::Gone);
        }
        self.detach()
    }

    /// Hands on the signal that it is owed.
    fn pay(&mut self) -> Result<(), HoldError> {
        match self.owed.take() {
            Some(signal) => kill(self.pid, signal).map_err(os("hand on a signal")),
            None => Ok(()),
        }
    }

    fn detach(&mut self) -> Result<(), HoldError> {
        self.pay()?;
        ptrace::detach(self.pid, None).map_err(os("detach"))?;
        self.is_settled = true;
        Ok(())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.is_settled {
            end(self.pid);
        }
    }
}

/// Kills a task that we trace. Its end is reported to us first, and only then to its parent.
fn end(pid: Pid) {
    if kill(pid, Signal::SIGKILL).is_ok() {
        while matches!(
            waitpid(pid, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)) | Err(Errno::EINTR)
        ) {}
    }
}

fn open_memory(pid: Pid) -> Result<File, HoldError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/{pid}/mem"))
        .map_err(io_error("open its memory"))
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
