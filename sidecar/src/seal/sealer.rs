//! A thread that delivers: what it waits for, and what it then does.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use sidecar_common::policy::{RingKey, ScopeId};

use super::{
    Command, Commands, GivenUp, Turns, Work,
    arrivals::Arrivals,
    deadline::Deadline,
    deadline_queue::DeadlineQueue,
    deliver_file::Mounter,
    digests::{Counting, Digests},
    memory::Fingerprints,
    rotate::Rotation,
    variables::StartedWith,
};
use crate::{
    config::Config,
    kernel::{Maps, Record, Ring},
    limits::Reserve,
    observe::{Journal, Metrics},
    process::{Origins, SharedWhereabouts},
    secrets::Store,
};

/// Records that are taken before the next program is served: whoever floods us keeps nobody from his secrets.
const RECORDS_AT_ONCE: usize = 64;
/// Of the delivering thread, where it may have it: it is short of time when many programs come at once, and each keeps a
/// processor busy until it is attached to.
const NICE: libc::c_int = -10;
/// Programs that are served before trees are adopted and rotated.
const SERVED_AT_ONCE: usize = 32;

/// What a thread that delivers is responsible for: the trees whose seals are of some classes, of which the kernel side tells by
/// its ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Which it is.
    pub(crate) number: usize,
    /// Of how many.
    pub(crate) of: usize,
}

impl Share {
    /// Whether a tree, by its seal, is its own.
    pub(super) fn has(self, seal: u64) -> bool {
        RingKey::worker_of(seal, self.of) == self.number
    }
}

/// A thread that delivers. Attaching is done by it too, but for what makes it wait: a tracer is a thread, not a process.
pub(crate) struct Sealer {
    pub(crate) share: Share,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Arc<Store>,
    pub(crate) scope: ScopeId,
    pub(crate) whereabouts: SharedWhereabouts,
    pub(crate) started_with: StartedWith,
    pub(crate) maps: Maps,
    pub(crate) ring: Ring,
    pub(crate) journal: Journal,
    pub(crate) metrics: Metrics,
    pub(crate) given_up: GivenUp,
    pub(crate) turns: Turns,
    pub(crate) digests: Arc<Counting>,
    /// Losses that were told, of all such threads.
    pub(crate) told_losses: Arc<AtomicU64>,
}

impl Sealer {
    /// Delivers until it is told to stop, and then whatever is still held. Says when it is `ready`, having opened all that it
    /// needs: from then on a want of descriptors delays it, and does not end it.
    pub(crate) fn run(self, commands: Commands, ready: &Sender<()>) -> io::Result<()> {
        let Self {
            share,
            config,
            store,
            scope,
            whereabouts,
            started_with,
            maps,
            mut ring,
            journal,
            metrics,
            given_up,
            turns,
            digests,
            told_losses,
        } = self;
        // SAFETY: a number of a system call; 0 is the calling thread.
        if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
            tracing::debug!("no priority for the delivering thread: {}", Errno::last());
        }
        let mut work = Work {
            share,
            config,
            store,
            scope,
            whereabouts,
            dropped: maps.counters(scope).dropped,
            maps,
            journal,
            metrics,
            given_up,
            turns,
            mounter: Mounter::new(share.of)?,
            reserve: Reserve::new(share.of)?,
            digests: Digests::new(digests, commands.clone()).into(),
            told_losses,
            trees: BTreeMap::new(),
            prints: Fingerprints::default(),
            due: DeadlineQueue::default(),
            arrivals: Arrivals::default(),
            deadline: Deadline::new()?,
            leaving: VecDeque::new(),
            is_taking_away: false,
            wiping: 0,
            rotation: Rotation::default(),
            adoption: None,
            commands,
            waiting: Vec::new(),
            is_ending: false,
            taken_in_a_row: 0,
            origins: Origins::new(),
            started_with,
        };
        // (who does not wait for it is gone)
        let _ = ready.send(());
        // what an agent before us sealed, and what it left held
        work.adopt();
        work.catch_up();
        work.journal.flush();
        loop {
            let is_told = work.wait(&ring)?;
            work.adopt_some();
            work.rotate_some();
            work.receive(&mut ring);
            if is_told && work.apply() {
                return work.finish(&mut ring);
            }
        }
    }
}

impl Work {
    /// Does what it is told; true if that is to stop.
    fn apply(&mut self) -> bool {
        for command in self.commands.take() {
            match command {
                Command::Stop => return true,
                Command::Proceed(tgid) => {
                    self.proceed(tgid);
                    self.journal.flush();
                    continue;
                }
                Command::Look(seal) => {
                    self.look_at_waiting(seal);
                    self.journal.flush();
                    continue;
                }
                Command::LookAgain => {
                    self.look_again();
                    self.journal.flush();
                    continue;
                }
                Command::Refresh => {}
                Command::Reconfigure(config, store, done) => {
                    (self.config, self.store) = (config, store);
                    drop(done);
                }
            }
            self.rotate();
            self.journal.flush();
        }
        false
    }

    /// Waits for something to do; true if that is an order.
    fn wait(&self, ring: &Ring) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(ring.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.commands.as_fd(), PollFlags::POLLIN),
        ];
        let at_most = if self.rotation.is_on() || self.adoption.is_some() {
            Some(TimeSpec::new(0, 0))
        } else {
            self.until_due()
        };
        match ppoll(&mut fds, at_most, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fds[1].any() == Some(true))
    }

    /// Takes what the kernel side tells, and serves those that stand. Whoever comes is attached to first: until then it keeps
    /// a processor busy.
    fn receive(&mut self, ring: &mut Ring) {
        let mut is_empty = false;
        for _ in 0..SERVED_AT_ONCE {
            let mut taken = 0;
            for record in std::iter::from_fn(|| ring.next()).take(RECORDS_AT_ONCE) {
                self.take(record);
                taken += 1;
            }
            self.taken_in_a_row += taken;
            is_empty = taken < RECORDS_AT_ONCE;
            self.look_at_coming();
            // (whoever waited for his time, or has a tracer of his own, or whose digest is counted, is not to wait for all these
            // turns, too)
            self.do_due();
            if !self.arrivals.is_any_standing() {
                break;
            }
            self.serve_next();
            if !self.commands.is_empty() {
                break;
            }
        }
        // A ring that was full gives at least so many; in between, nothing was lost.
        if self.taken_in_a_row >= ring.least_of_a_full() {
            self.notice_losses();
            self.taken_in_a_row = 0;
        } else if is_empty {
            self.taken_in_a_row = 0;
        }
        self.journal.flush();
    }

    /// Delivers whatever is still held. (The watchdog sees to it that nothing is for long.)
    fn finish(&mut self, ring: &mut Ring) -> io::Result<()> {
        self.is_ending = true;
        self.look_again();
        self.catch_up();
        self.receive(ring);
        // (what was told after the order to stop)
        for tgid in self.arrivals.all_coming() {
            self.proceed(tgid);
        }
        // (who waits still waits for a digest)
        while !(self.arrivals.is_empty() && self.waiting.is_empty()) {
            self.wait(ring)?;
            self.receive(ring);
            self.apply();
        }
        Ok(())
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Held(header) => match self.maps.held(header.tgid) {
                Ok(Some(held)) => self.comes(header.tgid, &held),
                // it ended, or executed something else, or was dealt with already
                Ok(None) => self.has_changed(header.tgid),
                Err(e) => tracing::error!("{e}"),
            },
            Record::Access(access) => self.report_access(&access),
            Record::Exit(exit) => self.end(&exit),
            Record::Exec(exec) => self.report_exec(&exec),
            Record::Refused(exec) => self.report_refused(&exec),
            Record::Unknown => {
                tracing::error!(
                    "unknown record in the ring: the kernel side is of another version"
                );
            }
        }
    }

    /// Deals with everything that is held, whether its record arrived or not.
    pub(super) fn catch_up(&mut self) {
        for (tgid, held) in self.maps.all_held(self.scope) {
            if self.share.has(held.seal) {
                self.comes(tgid, &held);
            }
        }
    }

    /// Records may have been lost; what they were about is in the maps.
    fn notice_losses(&mut self) {
        let dropped = self.maps.counters(self.scope).dropped;
        if dropped == self.dropped {
            return;
        }
        self.dropped = dropped;
        // (of whose ring they were the kernel side does not count: another thread may have told of them)
        let told = self.told_losses.fetch_max(dropped, Ordering::Relaxed);
        if dropped > told {
            self.journal.tell_loss(dropped - told, "kernel", None);
        }
        self.catch_up();
        self.sweep();
    }
}
