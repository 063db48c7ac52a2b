//! Who is on the way, and who stands behind the exec and is served: the books of it. (What is done with them: `pending_exec.rs`.)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    time::{Duration, Instant},
};

use sidecar_common::policy::Held;

use super::{
    Command, Commands,
    fair::{FairQueue, Owner},
    held::HoldError,
    tracee::Tracee,
    tracer::{Traced, Tracer},
};

/// When one that is followed is looked at for the first time: nearly all have executed by then. Then later and later.
pub(super) const FIRST_LOOK: Duration = Duration::from_millis(10);

pub(super) type Outcome = Result<(), HoldError>;

/// One of them.
pub(super) struct PendingExec {
    /// As it was when it came, and then as it was when it had executed.
    pub(super) held: Held,
    pub(super) way: Way,
}

pub(super) enum Way {
    /// This thread is attached.
    Followed {
        tracee: Tracee,
        /// When it is looked at.
        next: Instant,
        interval: Duration,
        /// The kernel side has told that it executed, or ended: a few instructions later it stands, or is gone.
        is_told: bool,
        /// It stood where it was not meant to, and was continued.
        was_trapped: bool,
    },
    /// A thread of its own is, or will be. The outcome is that of its exec.
    Apart {
        tracer: Tracer,
        outcome: mpsc::Receiver<Outcome>,
    },
}

/// A program that stands before its first instruction.
pub(super) enum Standing {
    /// By a signal.
    Stopped,
    /// By us.
    Traced(Traced),
}

/// Those that are on their way, and those that stand and are served one after another, fairly.
#[derive(Default)]
pub(super) struct Arrivals {
    /// By their number in the kernel's own.
    pub(super) coming: BTreeMap<u32, PendingExec>,
    /// When those that are followed are looked at.
    pub(super) looks: BTreeSet<(Instant, u32)>,
    pub(super) apart: usize,
    /// More are coming than are attached to.
    pub(super) is_crowded: bool,
    /// By their seal.
    pub(super) standing: BTreeMap<u64, (u32, Held, Standing)>,
    /// Whose turn it is among them.
    pub(super) order: FairQueue,
}

impl Arrivals {
    /// Nobody comes, and nobody stands.
    pub(super) fn is_empty(&self) -> bool {
        self.coming.is_empty() && self.standing.is_empty()
    }

    /// By their number in the kernel's own.
    pub(super) fn all_coming(&self) -> Vec<u32> {
        self.coming.keys().copied().collect()
    }

    /// Somebody stands.
    pub(super) fn is_any_standing(&self) -> bool {
        !self.order.is_empty()
    }

    /// When the next of those that are followed is to be looked at.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.looks.first().map(|(at, _)| *at)
    }

    pub(super) fn stands(&mut self, tgid: u32, held: &Held, standing: Standing) {
        let name = held.name[..held.name.len().min(held.name_len as usize)].to_vec();
        let owner = Owner {
            cgroup: held.cgroup,
            name,
        };
        self.order.push(owner, held.seal);
        self.standing.insert(held.seal, (tgid, *held, standing));
    }

    pub(super) fn remove(&mut self, tgid: u32) -> Option<PendingExec> {
        let coming = self.coming.remove(&tgid)?;
        match coming.way {
            Way::Followed { next, .. } => drop(self.looks.remove(&(next, tgid))),
            Way::Apart { .. } => self.apart -= 1,
        }
        Some(coming)
    }

    pub(super) fn follow(&mut self, tgid: u32, held: &Held, tracee: Tracee) {
        let next = Instant::now() + FIRST_LOOK;
        self.looks.insert((next, tgid));
        let way = Way::Followed {
            tracee,
            next,
            interval: FIRST_LOOK,
            is_told: false,
            was_trapped: false,
        };
        self.coming.insert(tgid, PendingExec { held: *held, way });
    }
}

/// Tells the delivering thread, when it is dropped, that there is an outcome.
pub(super) struct Notice {
    tgid: u32,
    commands: Commands,
    outcome: Option<mpsc::Sender<Outcome>>,
}

impl Notice {
    pub(super) fn of(tgid: u32, commands: &Commands) -> (Self, mpsc::Receiver<Outcome>) {
        let (tell, told) = mpsc::channel();
        let notice = Self {
            tgid,
            commands: commands.clone(),
            outcome: Some(tell),
        };
        (notice, told)
    }

    pub(super) fn give(self, outcome: Outcome) {
        if let Some(tell) = &self.outcome {
            // (nobody waits for one whose number is another's)
            let _ = tell.send(outcome);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // First the end of what was told, for the other side looks when it is woken.
        self.outcome = None;
        if let Err(e) = self.commands.give(Command::Proceed(self.tgid)) {
            tracing::error!("the delivering thread cannot be woken: {e}");
        }
    }
}
