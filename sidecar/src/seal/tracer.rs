//! The thread that is attached to a process: for the kernel a tracer is a thread, and nobody else may do what it may.

use std::{io, sync::mpsc, thread};

use nix::{sys::ptrace, unistd::Pid};

use super::{held::HoldError, tracee::Tracee};

/// Of a thread that makes a few system calls, in bytes.
const TRACER_STACK: usize = 64 * 1024;

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

/// A thread that is attached to one process and waits for it as long as its exec takes. Dropping this ends the thread. The process is
/// then detached if the thread was given no job, else killed unless a job has detached it.
pub(super) struct Tracer(mpsc::Sender<Job>);

impl Tracer {
    /// Attaches, and sees it through its exec. `done` hears of that, on that thread.
    pub(super) fn start(
        pid: Pid,
        options: ptrace::Options,
        done: impl FnOnce(Result<(), HoldError>) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, given) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("tracer".into())
            .stack_size(TRACER_STACK)
            .spawn(move || match Tracee::begin(pid, options, true) {
                Ok(mut tracee) => {
                    done(tracee.see_through_exec());
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
                Err(e) => done(Err(e)),
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
