//! What a delivering thread is told by the others.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;

use crate::{config::Config, secrets::Store};

/// One of them.
pub(crate) enum Command {
    /// From now on by this configuration. What is sealed by another stays so.
    /// The other end hears when it is so: then this end is gone.
    Reconfigure(Arc<Config>, Arc<Store>, mpsc::Sender<Infallible>),
    /// A source may have another value: what runs is brought up to it.
    Refresh,
    /// The process of this number in the kernel's own, which is coming, has come a step further.
    Proceed(u32),
    /// There is more to know of the one with that seal.
    Look(u64),
    /// There is more to know of who is held.
    LookAgain,
    /// Deliver what is held, and end.
    Stop,
}

/// Orders on their way. Clones share.
#[derive(Clone)]
pub(crate) struct CommandQueue(Arc<Queue>);

struct Queue {
    waiting: Mutex<VecDeque<Command>>,
    given: EventFd,
}

impl CommandQueue {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(Queue {
            waiting: Mutex::default(),
            given: EventFd::from_value_and_flags(0, flags)?,
        })))
    }

    /// Gives one. The thread comes to it when it has delivered what it is at.
    pub(crate) fn give(&self, order: Command) -> io::Result<()> {
        self.queue().push_back(order);
        self.0.given.write(1)?;
        Ok(())
    }

    /// Those that were given, in their order.
    pub(super) fn take(&self) -> VecDeque<Command> {
        // (nothing to read: nobody wrote)
        let _ = self.0.given.read();
        std::mem::take(&mut self.queue())
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Command>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for CommandQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.given.as_fd()
    }
}
