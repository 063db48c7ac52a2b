//! What the delivering thread does at a time.

use std::{collections::BTreeMap, time::Instant};

use super::{deliver_file::OpenVault, memory::Root};

/// One of those things.
pub(super) enum Due {
    /// Files that were taken away are wiped.
    Wipe(OpenVault),
    /// What was in replaced files of a tree is wiped, and its folders are closed.
    Old(u64),
    /// A program that was asked to end is killed.
    Kill(Root),
    /// One that is held, by its number in the kernel's own, is begun with: there was no descriptor for it.
    Begin(u32),
    /// Programs are brought up to their sources for which there were no descriptors.
    Rotate,
    /// Directories are taken away for which there were no descriptors, or whose mount namespace is to be looked for.
    TakeAway,
}

/// All of them, by their times: every program that ends leaves one, and every record that comes asks for the first.
#[derive(Default)]
pub(super) struct DeadlineQueue {
    due: BTreeMap<(Instant, u64), Due>,
    /// How many there ever were.
    count: u64,
}

impl DeadlineQueue {
    pub(super) fn add(&mut self, at: Instant, due: Due) {
        self.count += 1;
        self.due.insert((at, self.count), due);
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes the first, if it is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    pub(super) fn has(&self, is_it: impl Fn(&Due) -> bool) -> bool {
        self.due.values().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_comes_in_the_order_of_its_times() {
        let mut schedule = DeadlineQueue::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (seconds, tgid) in [(3, 3), (1, 1), (2, 20), (2, 21)] {
            schedule.add(at(seconds), Due::Begin(tgid));
        }
        assert_eq!(schedule.first(), Some(at(1)));
        assert!(schedule.take(now).is_none());
        let mut order = Vec::new();
        while let Some(due) = schedule.take(at(2)) {
            let Due::Begin(tgid) = due else {
                unreachable!("nothing else was added")
            };
            order.push(tgid);
        }
        assert_eq!(order, [1, 20, 21]);
        assert!(schedule.has(|due| matches!(due, Due::Begin(3))));
        assert_eq!(schedule.first(), Some(at(3)));
    }
}
