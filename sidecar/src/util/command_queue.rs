//! Commands for a thread that waits with poll(2) for more than them.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Commands on their way; its descriptor is readable while there are any. Clones share.
pub(crate) struct CommandQueue<T>(Arc<Shared<T>>);

struct Shared<T> {
    waiting: Mutex<VecDeque<T>>,
    given: EventFd,
}

impl<T> Clone for CommandQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> CommandQueue<T> {
    /// With none. An error: there is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(Shared {
            waiting: Mutex::default(),
            given: EventFd::from_value_and_flags(0, flags)?,
        })))
    }

    /// Adds one. The thread takes it when it is done with what it is at.
    pub(crate) fn give(&self, command: T) -> io::Result<()> {
        self.queue().push_back(command);
        self.0.given.write(1)?;
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Takes all, in their order.
    pub(crate) fn take(&self) -> VecDeque<T> {
        // (nothing to read: nobody wrote)
        let _ = self.0.given.read();
        std::mem::take(&mut self.queue())
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> AsFd for CommandQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.given.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn is_readable(queue: &CommandQueue<u32>) -> bool {
        let mut fds = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn command_queue_is_readable_until_its_commands_are_taken() {
        let queue = CommandQueue::new().unwrap();
        assert!(!is_readable(&queue));
        for command in 1..=3 {
            queue.clone().give(command).unwrap();
        }
        assert!(is_readable(&queue) && !queue.is_empty());
        assert_eq!(queue.take(), [1, 2, 3]);
        assert!(!is_readable(&queue) && queue.is_empty());
        assert!(queue.take().is_empty());
    }
}
