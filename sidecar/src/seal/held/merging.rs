//! Merged memory is an oracle: the kernel (KSM) shares equal pages of all who let it, and a write to one that is shared takes longer.
//! Who switches that on (`PR_SET_MEMORY_MERGE`, Linux 6.4) and then executes a program has passed it on (6.7), and guesses the
//! program's pages, one after another. So it is switched off for a program that gets secrets, before its first instruction.
//!
//! Only a process itself may do that. The program stands behind its exec, and is made to do one system call: its registers
//! are set to an instruction for that in the vDSO, which the kernel maps into every program, and then to what they were.

use std::io;

use nix::{libc, sys::ptrace, unistd::Pid};

use super::{HeldTask, HoldError, StackError, Tracee, os, read};
use crate::{
    process::Process,
    seal::registers::{Registers, SystemCall},
};

/// More than a vDSO has (two pages), in bytes.
const VDSO_MAX: usize = 16 * 1024;
/// Ends of system calls before ours begins: that of its exec.
const STOPS_BEFORE_CALL: u32 = 4;
/// include/uapi/linux/prctl.h
const PR_SET_MEMORY_MERGE: u64 = 67;

/// Why a program's memory goes on being merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergingError {
    /// Its filter would be asked, and might kill it.
    #[error(
        "the kernel merges its memory with equal pages of other processes (PR_SET_MEMORY_MERGE, MemoryKSM= of systemd), which lets them guess its content. The agent could not switch that off: it has a seccomp filter, which the agent may not suspend: {0}. Start it without merging, or the agent without a seccomp filter (seccompProfile: Unconfined) and with CAP_SYS_ADMIN"
    )]
    Filtered(io::Error),
    /// There is nothing in it with which a system call is made.
    #[error(
        "the kernel merges its memory with equal pages of other processes (PR_SET_MEMORY_MERGE, MemoryKSM= of systemd), which lets them guess its content. The agent could not switch that off: it has no vDSO. Start it without merging, or the kernel without vdso=0 (vdso32=0)"
    )]
    NoCode,
    /// The kernel refused.
    #[error(
        "the kernel merges its memory with equal pages of other processes (PR_SET_MEMORY_MERGE, MemoryKSM= of systemd), which lets them guess its content. The agent could not switch that off: {0}. Start it without merging"
    )]
    Kept(io::Error),
    /// Its initial stack is none.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// It could not be looked at. Nothing of it was changed.
    #[error("{what}: {cause}")]
    Unreadable {
        /// What we did.
        what: &'static str,
        /// What came of it.
        cause: io::Error,
    },
    /// It stands in the middle of a system call of ours.
    #[error("while merging of its memory was switched off: {0}")]
    Amid(HoldError),
}

impl HeldTask {
    /// Has the kernel merge the program's memory no more. With `dies_with_us` it does not outlive us afterwards, either.
    pub(in crate::seal) fn stop_merging(
        &mut self,
        process: Process,
        dies_with_us: bool,
    ) -> Result<(), MergingError> {
        let word = self.registers.word().ok_or(StackError::Narrow)?;
        let vdso = self.stack()?.vdso().ok_or(MergingError::NoCode)?;
        let mut code = vec![0; VDSO_MAX];
        let have = read(self.pid, &mut code, vdso).map_err(|errno| MergingError::Unreadable {
            what: "read its vDSO",
            cause: errno.into(),
        })?;
        let at = SystemCall::find(&code[..have], word).ok_or(MergingError::NoCode)?;
        let call = SystemCall::prctl(word, vdso + at as u64, [PR_SET_MEMORY_MERGE, 0]);
        let is_filtered = process
            .has_filter()
            .map_err(|cause| MergingError::Unreadable {
                what: "look whether it has a seccomp filter",
                cause,
            })?;
        let (pid, begin) = (self.pid, self.registers.at_begin());
        let done = move |tracee: &mut Tracee| {
            // (should we die in between it must not go on from there)
            let mut options =
                ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
            if is_filtered {
                options |= ptrace::Options::from_bits_retain(libc::PTRACE_O_SUSPEND_SECCOMP);
            }
            if let Err(errno) = ptrace::setoptions(pid, options) {
                return Ok(Err(MergingError::Filtered(errno.into())));
            }
            Ok(make_call(tracee, pid, begin, call, dies_with_us).map_err(MergingError::Amid))
        };
        match self.traced.ask(done).map_err(MergingError::Amid)?? {
            0 => {}
            errno => return Err(MergingError::Kept(io::Error::from_raw_os_error(-errno))),
        }
        self.registers = begin;
        Ok(())
    }
}

/// Has it make the call, and puts it back to its first instruction. Gives what the call returned.
fn make_call(
    tracee: &mut Tracee,
    pid: Pid,
    begin: Registers,
    call: SystemCall,
    dies_with_us: bool,
) -> Result<i32, HoldError> {
    let write = |registers: Registers| registers.write(pid).map_err(os("write registers"));
    let mut stops = 0..STOPS_BEFORE_CALL;
    loop {
        // (at the end of its exec the kernel has written what that returns)
        write(begin.calling(&call))?;
        tracee.run_to_system_call()?;
        if !tracee.has_left_a_system_call()? {
            break;
        }
        stops.next().ok_or(HoldError::MovedOn)?;
    }
    tracee.run_to_system_call()?;
    let registers = Registers::read(pid).map_err(os("read registers"))?;
    write(begin)?;
    let mut options = ptrace::Options::empty();
    options.set(ptrace::Options::PTRACE_O_EXITKILL, dies_with_us);
    ptrace::setoptions(pid, options).map_err(os("set options"))?;
    Ok(registers.result())
}
