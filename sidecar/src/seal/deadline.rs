//! A deadline for attaching: `PTRACE_SEIZE` waits for as long as an exec of the process takes (`cred_guard_mutex`), and the
//! thread that delivers has others to attend to.
//!
//! The kernel begins the call anew after every signal (`ERESTARTNOINTR`). So a timer sends this thread one, again and again,
//! and the signal's handler takes the thread out of the call, as C libraries do with a thread that is cancelled.

use std::io;

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace,
        signal::{
            SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
        },
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::ClockId,
    unistd::{Pid, gettid},
};

/// Far more than an exec that waits for nothing takes, in nanoseconds.
const PATIENCE_NS: i64 = 2_000_000;
/// Nobody else uses it here.
const SIGNAL: Signal = Signal::SIGALRM;

/// Of the thread that made it.
pub(super) struct Deadline(Timer);

impl Deadline {
    pub(super) fn new() -> io::Result<Self> {
        let action = SigAction::new(
            SigHandler::SigAction(take_out),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler changes registers that the thread has in one call alone, and does nothing else.
        unsafe { sigaction(SIGNAL, &action) }?;
        let event = SigEvent::new(SigevNotify::SigevThreadId {
            signal: SIGNAL,
            thread_id: gettid().as_raw(),
            si_value: 0,
        });
        Ok(Self(Timer::new(ClockId::CLOCK_MONOTONIC, event)?))
    }

    /// Attaches, or says `EINTR` where that takes longer.
    pub(super) fn seize(&mut self, pid: Pid, options: ptrace::Options) -> nix::Result<()> {
        let patience = TimeSpec::new(0, PATIENCE_NS);
        // (again and again: the first may come before the call has begun)
        let armed = Expiration::IntervalDelayed(patience, patience);
        self.0.set(armed, TimerSetTimeFlags::empty())?;
        let seized = ptrace::seize(pid, options);
        let disarmed = Expiration::OneShot(TimeSpec::new(0, 0));
        self.0.set(disarmed, TimerSetTimeFlags::empty())?;
        seized
    }
}

/// The signal's handler. If the thread is about to make the `PTRACE_SEIZE` call, for the first time or restarted, the handler moves it
/// behind the call, with `EINTR` as its result.
extern "C" fn take_out(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the thread's context, which is ours until we return.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = registers::of(context);
    if registers.is_at_seize() {
        registers.leave(Errno::EINTR);
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::{errno::Errno, libc};

    const CALL: usize = libc::REG_RAX.cast_unsigned() as usize;
    const FIRST: usize = libc::REG_RDI.cast_unsigned() as usize;
    const NEXT: usize = libc::REG_RIP.cast_unsigned() as usize;
    /// `syscall`
    const ENTER: [u8; 2] = [0x0f, 0x05];

    pub(super) struct Registers<'a>(&'a mut libc::mcontext_t);

    pub(super) fn of(context: &mut libc::ucontext_t) -> Registers<'_> {
        Registers(&mut context.uc_mcontext)
    }

    impl Registers<'_> {
        pub(super) fn is_at_seize(&self) -> bool {
            let all = &self.0.gregs;
            if all[CALL] != libc::SYS_ptrace || all[FIRST] != i64::from(libc::PTRACE_SEIZE) {
                return false;
            }
            let next = all[NEXT] as *const [u8; ENTER.len()];
            // SAFETY: what the thread is about to execute is mapped, and code is readable.
            unsafe { next.read_unaligned() == ENTER }
        }

        pub(super) fn leave(self, error: Errno) {
            self.0.gregs[CALL] = -i64::from(error as i32);
            self.0.gregs[NEXT] += size_of_val(&ENTER).cast_signed() as i64;
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod registers {
    use nix::{errno::Errno, libc};

    /// `svc #0`
    const CALL: u32 = 0xd400_0001;

    pub(super) struct Registers<'a>(&'a mut libc::mcontext_t);

    pub(super) fn of(context: &mut libc::ucontext_t) -> Registers<'_> {
        Registers(&mut context.uc_mcontext)
    }

    impl Registers<'_> {
        pub(super) fn is_at_seize(&self) -> bool {
            if self.0.regs[8] != libc::SYS_ptrace as u64
                || self.0.regs[0] != u64::from(libc::PTRACE_SEIZE)
            {
                return false;
            }
            let at = self.0.pc as *const u32;
            // SAFETY: what the thread is about to execute is mapped, and code is readable.
            unsafe { at.read_unaligned() == CALL }
        }

        pub(super) fn leave(self, error: Errno) {
            self.0.regs[0] = (-i64::from(error as i32)).cast_unsigned();
            self.0.pc += size_of_val(&CALL) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;

    #[test]
    fn a_call_that_does_not_wait_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        thread::sleep(Duration::from_millis(50));
        let pid = Pid::from_raw(child.id().cast_signed());
        let seized = Deadline::new()
            .unwrap()
            .seize(pid, ptrace::Options::PTRACE_O_EXITKILL);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seized, Ok(()));
    }
}
