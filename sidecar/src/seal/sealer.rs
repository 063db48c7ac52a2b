//! The thread that delivers: what it waits for, and what it then does.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::AsFd as _,
    sync::Arc,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use sidecar_common::policy::ScopeId;

use super::{
    GivenUp, Order, Orders, Work,
    deliver_file::Mounter,
    digests::Digests,
    rotate::{Prints, Rotation},
};
use crate::{
    config::Config,
    kernel::{Maps, Record, Ring},
    limits::Reserve,
    observe::{Journal, Metrics},
    process::Whereabouts,
    secrets::Store,
};

/// The thread that delivers. Attaching is done by it too, but for what is coming: a tracer is a thread, not a process.
pub(crate) struct Sealer {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) scope: ScopeId,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) maps: Maps,
    pub(crate) ring: Ring,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
    pub(crate) given_up: GivenUp,
}

impl Sealer {
    /// Delivers until it is told to stop, and then whatever is still held.
    pub(crate) fn run(self, orders: Orders) -> io::Result<()> {
        let Self {
            config,
            store,
            scope,
            whereabouts,
            maps,
            mut ring,
            journal,
            metrics,
            given_up,
        } = self;
        let mut work = Work {
            config,
            store,
            scope,
            whereabouts,
            dropped: maps.counters(scope).dropped,
            maps,
            journal,
            metrics,
            given_up,
            mounter: Mounter::new()?,
            reserve: Reserve::new()?,
            digests: Digests::new(orders.clone()).into(),
            trees: HashMap::new(),
            prints: Prints::default(),
            due: Vec::new(),
            leaving: VecDeque::new(),
            is_taking_away: false,
            wiping: 0,
            rotation: Rotation::default(),
            coming: HashMap::new(),
            is_crowded: false,
            orders,
            waiting: Vec::new(),
            is_ending: false,
        };
        // what an agent before us sealed, and what it left held
        work.adopt();
        // (a source may have changed meanwhile)
        work.rotate();
        work.catch_up();
        work.journal.flush();
        loop {
            let mut fds = [
                PollFd::new(ring.as_fd(), PollFlags::POLLIN),
                PollFd::new(work.orders.as_fd(), PollFlags::POLLIN),
            ];
            let at_most = if work.rotation.is_on() {
                PollTimeout::ZERO
            } else {
                work.until_due()
            };
            match poll(&mut fds, at_most) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let is_told = fds[1].any() == Some(true);
            work.do_due();
            work.rotate_some();
            let mut taken = 0;
            while let Some(record) = ring.next() {
                work.take(record);
                taken += 1;
                // Whoever floods us must not make us collect without end.
                if taken % Ring::LEAST_OF_A_FULL == 0 {
                    work.journal.flush();
                }
            }
            // A ring that was full gives at least so many; in between, nothing was lost.
            if taken >= Ring::LEAST_OF_A_FULL {
                work.notice_losses();
            }
            work.journal.flush();
            if is_told && work.obey() {
                return work.finish();
            }
        }
    }
}

impl Work {
    /// Does what it is told; true if that is to stop.
    fn obey(&mut self) -> bool {
        for order in self.orders.take() {
            match order {
                Order::Stop => return true,
                Order::Proceed(tgid) => {
                    self.proceed(tgid);
                    self.journal.flush();
                    continue;
                }
                Order::Look(seal) => {
                    self.look_at(seal);
                    self.journal.flush();
                    continue;
                }
                Order::LookAgain => {
                    self.look_again();
                    self.journal.flush();
                    continue;
                }
                Order::Refresh => {}
                Order::Reconfigure(config, store, done) => {
                    (self.config, self.store) = (config, store);
                    let _ = done.send(());
                }
            }
            self.rotate();
            self.journal.flush();
        }
        false
    }

    /// Delivers whatever is still held. (The watchdog sees to it that nothing is for long.)
    fn finish(&mut self) -> io::Result<()> {
        self.is_ending = true;
        self.look_again();
        self.catch_up();
        // (what was told after the order to stop)
        for tgid in self.coming.keys().copied().collect::<Vec<_>>() {
            self.proceed(tgid);
        }
        self.journal.flush();
        // (who waits still waits for a digest)
        while !(self.coming.is_empty() && self.waiting.is_empty()) {
            let mut fds = [PollFd::new(self.orders.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, self.until_due()) {
                Ok(_) | Err(Errno::EINTR) => self.obey(),
                Err(e) => return Err(e.into()),
            };
            self.do_due();
        }
        Ok(())
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Held(header) => match self.maps.held(header.tgid) {
                Ok(Some(held)) => self.live(header.tgid, &held),
                Ok(None) => {} // it ended, or was dealt with already
                Err(e) => tracing::error!("{e}"),
            },
            Record::Access(access) => self.report_access(&access),
            Record::Exit(exit) => self.end(&exit),
            Record::Exec(exec) => self.report_exec(&exec),
            Record::Refused(exec) => self.report_refused(&exec),
            Record::Unknown => {
                tracing::error!("a record from the kernel side is not of this version");
            }
        }
    }

    /// Deals with everything that is held, whether its record arrived or not.
    pub(super) fn catch_up(&mut self) {
        for (tgid, held) in self.maps.all_held(self.scope) {
            self.live(tgid, &held);
        }
    }

    /// Records may have been lost; what they were about is in the maps.
    fn notice_losses(&mut self) {
        let dropped = self.maps.counters(self.scope).dropped;
        if dropped == self.dropped {
            return;
        }
        let count = dropped.saturating_sub(self.dropped);
        self.dropped = dropped;
        self.journal.tell_loss(count, "kernel", None);
        self.catch_up();
        self.sweep();
    }
}
