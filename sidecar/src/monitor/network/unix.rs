//! Connections by Unix sockets that are open. The kernel side tells of an end by the socket alone, and here is what it was.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sidecar_common::network::{Gone, Unix};

/// Open ones that are remembered.
const REMEMBERED: usize = 16_384;
/// Between two looks at all of them.
const LOOK: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct UnixConnections {
    open: HashMap<u64, Box<Unix>>,
    look_at: Instant,
    /// Whether ends may have been lost since the last look.
    is_doubtful: bool,
    refused: u64,
}

impl UnixConnections {
    pub(super) fn new() -> Self {
        Self {
            open: HashMap::new(),
            look_at: Instant::now() + LOOK,
            is_doubtful: false,
            refused: 0,
        }
    }

    /// One that was told of has begun, or could not.
    pub(super) fn begin(&mut self, unix: Box<Unix>) {
        if unix.error != 0 {
            return;
        }
        if self.is_full() && !self.open.contains_key(&unix.socket) {
            self.refused += 1;
            return;
        }
        self.open.insert(unix.socket, unix);
    }

    /// A socket is gone: what it was, if it was one of these. (Where an end was missed, its address may be another's by now.)
    pub(super) fn end(&mut self, gone: &Gone) -> Option<Box<Unix>> {
        let unix = self.open.remove(&gone.socket)?;
        (unix.inode == gone.inode).then_some(unix)
    }

    /// None of them goes on, or nobody asks for them any more.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// Something was lost.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// Where ends may have been lost, or forgotten for too many beginnings: only those of these sockets go on. It is done when it
    /// is time for it.
    pub(super) fn keep(&mut self, goes_on: impl Fn(u64) -> bool) {
        let now = Instant::now();
        if now >= self.look_at && (self.is_doubtful || self.is_full()) {
            self.look_at = now + LOOK;
            self.is_doubtful = false;
            self.open.retain(|socket, _| goes_on(*socket));
        }
    }

    /// How many there was no room for: no end of theirs is told.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    fn is_full(&self) -> bool {
        self.open.len() >= REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn unix(socket: u64, error: u32) -> Box<Unix> {
        Box::new(Unix {
            socket,
            error,
            inode: socket + 1,
            ..Unix::zeroed()
        })
    }

    fn gone(socket: u64) -> Gone {
        Gone {
            socket,
            inode: socket + 1,
            ..Gone::zeroed()
        }
    }

    #[test]
    fn what_is_open_ends_once() {
        let mut connections = UnixConnections::new();
        connections.begin(unix(1, 0));
        connections.begin(unix(2, 111));
        assert!(connections.end(&gone(2)).is_none());
        assert!(connections.end(&gone(1)).is_some());
        assert!(connections.end(&gone(1)).is_none());
    }

    #[test]
    fn another_socket_at_the_address_is_not_it() {
        let mut connections = UnixConnections::new();
        connections.begin(unix(1, 0));
        let other = Gone {
            inode: 9,
            ..gone(1)
        };
        assert!(connections.end(&other).is_none());
        // and it is not open either
        assert!(connections.end(&gone(1)).is_none());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut connections = UnixConnections::new();
        let most = u64::try_from(REMEMBERED).unwrap();
        for socket in 0..=most {
            connections.begin(unix(socket, 0));
        }
        assert_eq!(connections.refused(), 1);
        assert!(connections.end(&gone(most)).is_none());
        // ends that were lost make room, when it is time to look
        connections.keep(|socket| socket < 10);
        connections.begin(unix(most, 0));
        assert_eq!(connections.refused(), 2);
        connections.look_at = Instant::now();
        connections.keep(|socket| socket < 10);
        connections.begin(unix(most, 0));
        assert!(connections.end(&gone(most)).is_some() && connections.end(&gone(10)).is_none());
        assert_eq!(connections.refused(), 2);
    }
}
