//! A monitor's thread: it waits for records and for commands.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::oneshot;

use super::context::MonitorContext;
use crate::{kernel, util::CommandQueue};

/// Between two looks at the clock, where no record comes.
const TICK: Duration = Duration::from_secs(1);
/// The thread's stack, in bytes.
const STACK: usize = 256 * 1024;

/// What watches something.
pub(super) trait Monitor: Send + 'static {
    /// What is asked of it.
    type Request: Send;
    /// What came of it.
    type State: Send;
    /// What its lost records are reported as.
    const LOST_IN: &'static str;

    /// Readable when there are records.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes what there is.
    fn drain(&mut self, context: &mut MonitorContext);
    /// Does what is due, once a second or more often.
    fn tick(&mut self, context: &mut MonitorContext);
    /// From here on by another request.
    fn change(&mut self, request: Self::Request) -> Result<(), kernel::Error>;
    /// What came of the last request.
    fn state(&self) -> Self::State;
    /// Records that were lost since it began.
    fn lost(&self) -> u64;
}

/// A monitor at work. Dropping it ends it.
pub(super) struct Watch<M: Monitor> {
    commands: CommandQueue<Command<M>>,
    thread: Option<JoinHandle<()>>,
}

enum Command<M: Monitor> {
    Change(M::Request, oneshot::Sender<Result<M::State, kernel::Error>>),
    Stop,
}

impl<M: Monitor> Watch<M> {
    /// Starts the thread.
    pub(super) fn start(
        name: &'static str,
        mut monitor: M,
        mut context: MonitorContext,
    ) -> io::Result<Self> {
        let commands = CommandQueue::new()?;
        let thread = thread::Builder::new()
            .name(name.into())
            .stack_size(STACK)
            .spawn({
                let commands = commands.clone();
                move || {
                    if let Err(e) = run(&mut monitor, &mut context, &commands) {
                        tracing::error!("the {name} monitor failed: {e}");
                    }
                }
            })?;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }

    /// Has it work by another request, and waits until it does; what came of it.
    pub(super) async fn change(&self, request: M::Request) -> anyhow::Result<M::State> {
        let (done, is_done) = oneshot::channel();
        self.commands.give(Command::Change(request, done))?;
        Ok(is_done.await??)
    }

    /// Whether it does nothing any more.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<M: Monitor> Drop for Watch<M> {
    fn drop(&mut self) {
        if self.commands.give(Command::Stop).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn run<M: Monitor>(
    monitor: &mut M,
    context: &mut MonitorContext,
    commands: &CommandQueue<Command<M>>,
) -> io::Result<()> {
    let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
    let mut lost = 0;
    loop {
        let mut fds = [
            PollFd::new(monitor.fd(), PollFlags::POLLIN),
            PollFd::new(commands.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_told = fds[1].any() == Some(true);
        monitor.drain(context);
        monitor.tick(context);
        let lost_by_now = monitor.lost();
        let count = lost_by_now.saturating_sub(lost);
        if count > 0 {
            context.journal.tell_loss(count, M::LOST_IN, None);
            lost = lost_by_now;
        }
        context.journal.flush();
        if !is_told {
            continue;
        }
        for command in commands.take() {
            match command {
                Command::Stop => return Ok(()),
                Command::Change(request, done) => {
                    let changed = monitor.change(request).map(|()| monitor.state());
                    drop(done.send(changed));
                }
            }
        }
    }
}
