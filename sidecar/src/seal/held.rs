//! A program that stands before its first instruction, and the only two ways on from there.

mod merging;

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
    },
    unistd::Pid,
};
use sidecar_common::policy::{Held, HeldFlags};
use zeroize::Zeroize as _;

use crate::process::Process;

pub(super) use self::merging::MergingError;
use super::{
    registers::Registers,
    stack::{Rebuilt, Stack, StackError},
    tracee::Tracee,
    tracer::Traced,
};

/// First read of a stack, in bytes: enough for most environments, and no more to wipe than needed.
const STACK_READ: usize = 4 * 1024;
/// More than arguments, variables and the kernel's own words can take.
const STACK_MAX: usize = 8 * 1024 * 1024;

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

pub(super) fn os(what: &'static str) -> impl FnOnce(Errno) -> HoldError {
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
    pid: Pid,
    traced: Traced,
    registers: Registers,
    stack: StackCopy,
    /// It was stopped by a signal, too.
    is_stopped: bool,
    /// A `SIGCONT` that nobody sent is pending.
    is_continued: bool,
}

impl HeldTask {
    /// Attaches, and makes sure that this is the exec that was held and that nothing of it has run.
    /// With `dies_with_us` it does not outlive us.
    pub(super) fn attach(held: &Held, dies_with_us: bool) -> Result<Self, HoldError> {
        let mut options = ptrace::Options::empty();
        options.set(ptrace::Options::PTRACE_O_EXITKILL, dies_with_us);
        let tracee = Tracee::seize(Pid::from_raw(held.pid.cast_signed()), options)?;
        Self::take(held, Traced::Here(tracee))
    }

    /// The same where we are attached already.
    pub(super) fn take(held: &Held, mut traced: Traced) -> Result<Self, HoldError> {
        let pid = Pid::from_raw(held.pid.cast_signed());
        // (the kernel side does not know it where a record overtook the end of the exec)
        let stack = match held.stack {
            0 => Process::new(held.pid)
                .start_stack()
                .map_err(io_error("find its stack"))?,
            stack => stack,
        };
        let registers = traced.ask(move |_| Registers::read(pid).map_err(os("read registers")))?;
        if registers.stack_pointer() != stack {
            return Err(HoldError::MovedOn);
        }
        let stack = read_stack(pid, stack)?;
        Ok(Self {
            pid,
            traced,
            registers,
            stack,
            is_stopped: !held.flags.contains(HeldFlags::SEIZED),
            is_continued: held.flags.contains(HeldFlags::CONTINUED),
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
        write(self.pid, &rebuilt.block, rebuilt.pointer)?;
        if let Some((at, strings)) = &rebuilt.moved {
            write(self.pid, strings, *at)?;
        }
        let (pid, pointer, mut registers) = (self.pid, rebuilt.pointer, self.registers);
        self.registers = self.traced.ask(move |_| {
            let moved = registers.move_stack(pid, pointer);
            moved.map(|()| registers).map_err(os("write registers"))
        })?;
        Ok(())
    }

    /// Resumes the program. `forget` deletes its HELD entry after SIGCONT and before the detach. Earlier, a crash of ours would
    /// leave the program stopped. Later, it could exec and be held again.
    pub(crate) fn release<E>(
        mut self,
        forget: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), HoldError> {
        if self.is_continued {
            self.traced.ask(Tracee::take_continue)?;
        }
        if self.is_stopped {
            self.traced.ask(Tracee::pay)?;
            // In this order: should we die in between and it live on, it runs.
            kill(self.pid, Signal::SIGCONT).map_err(os("continue"))?;
        }
        if forget().is_err() {
            return Err(HoldError::Gone);
        }
        self.traced.ask(Tracee::detach)
    }

    /// Ends the program.
    pub(crate) fn kill(self) {
        match self.traced {
            Traced::Here(mut tracee) => tracee.kill(),
            // What it waits for in its end is nobody else's matter.
            Traced::There(tracer) => {
                let _ = kill(self.pid, Signal::SIGKILL);
                tracer.begin(Tracee::kill);
            }
        }
    }
}

/// A copy of a program's stack. It may hold secrets, its parent's for one, and what was read is wiped; in words, because wiping goes
/// element by element, and every start pays for it.
struct StackCopy {
    words: Vec<u64>,
    have: usize,
}

impl Drop for StackCopy {
    fn drop(&mut self) {
        self.words[..self.have.div_ceil(size_of::<u64>())].zeroize();
    }
}

impl StackCopy {
    fn new() -> Self {
        Self {
            words: vec![0; STACK_READ / size_of::<u64>()],
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
            let mut larger = vec![0; self.words.len() * 4];
            larger[..self.words.len()].copy_from_slice(&self.words);
            std::mem::replace(&mut self.words, larger).zeroize();
        }
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.have..]
    }
}

/// Reads what is mapped of its memory from there on. (Spares a descriptor, and every start what that costs.)
fn read(pid: Pid, to: &mut [u8], from: u64) -> nix::Result<usize> {
    let len = to.len();
    let base = usize::try_from(from).map_err(|_| Errno::EFAULT)?;
    process_vm_readv(
        pid,
        &mut [IoSliceMut::new(to)],
        &[RemoteIoVec { base, len }],
    )
}

/// Writes to its stack, which grows for that where it has to.
fn write(pid: Pid, bytes: &[u8], at: u64) -> Result<(), HoldError> {
    let len = bytes.len();
    if let Ok(base) = usize::try_from(at)
        && process_vm_writev(pid, &[IoSlice::new(bytes)], &[RemoteIoVec { base, len }]) == Ok(len)
    {
        return Ok(());
    }
    // Only by this file a stack grows from outside (since 6.5).
    let written = open_memory(pid)?.write_all_at(bytes, at);
    written.map_err(io_error("write its stack"))
}

/// The stack from its pointer to its end.
fn read_stack(pid: Pid, from: u64) -> Result<StackCopy, HoldError> {
    let mut copy = StackCopy::new();
    while copy.have < STACK_MAX {
        let at = from + copy.have as u64;
        let room = copy.room();
        let wanted = room.len();
        match read(pid, room, at) {
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

fn open_memory(pid: Pid) -> Result<File, HoldError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/{pid}/mem"))
        .map_err(io_error("open its memory"))
}
