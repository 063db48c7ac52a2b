//! The end of a secret's life: the process is gone, its files go, their memory is wiped.

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use rustix::process::Signal;
use sidecar_common::event::{Exit, ExitFlags};

use super::{Work, deadline_queue::Due, deferred::Deferred, deliver_file::Vault, text};
use crate::{
    limits,
    observe::{Detail, Kind, Who},
};

/// How long after its last process a tree's files are wiped. Not at once: what was sent from them
/// without copying (`sendfile` into a pipe) is still these very pages until it is read.
const WIPE_AFTER: Duration = Duration::from_secs(2);
/// How long the old content of a replaced file is there for who has it open. Then it is wiped.
pub(super) const OLD_FOR: Duration = Duration::from_mins(1);

/// The kernel side does not wake us for the end of a program without files, which leaves nothing to take away: it is told of with
/// whatever comes next, or so much later.
const LOOK_FOR_ENDS: Duration = Duration::from_secs(1);
/// How soon directories are looked for again whose mount namespace is not known.
const LOOK_FOR_AFTER: Duration = Duration::from_secs(1);
/// Which part of all descriptors may be of files that were taken away, until they are wiped.
const PART: u64 = 8;

impl Work {
    /// A sealed process ended; with the last of its tree, its files go.
    pub(super) fn end(&mut self, exit: &Exit) {
        let Some(tree) = self.trees.get_mut(&exit.seal) else {
            // it was refused, or would have been
            return self.forget_waiting(exit.seal);
        };
        if exit.flags.contains(ExitFlags::ROOT) {
            tree.has_root = false;
            self.metrics.sealed_processes.dec();
            let comm = text(&exit.comm);
            let (code, signal) = match exit.status & 0x7f {
                0 => (Some(exit.status >> 8), None),
                signal => (None, Some(signal)),
            };
            let detail = Detail::Exited { code, signal };
            let pid = match (exit.pid, &tree.memory) {
                // (told late, when it had no number any more)
                (0, Some(memory)) => memory.pid(),
                (pid, _) => pid,
            };
            let who = Who {
                pid,
                process: tree.process.as_deref().unwrap_or(&comm),
                container: tree.place.container.as_ref(),
                pod_uid: None,
            };
            self.journal
                .emit(exit.header.time_ns, Kind::Exited, who, detail);
        }
        if exit.flags.contains(ExitFlags::LAST) {
            self.forget(exit.seal);
        }
    }

    /// Nobody is left of a tree.
    fn forget(&mut self, seal: u64) {
        if let Some(tree) = self.trees.remove(&seal) {
            if tree.has_root {
                self.metrics.sealed_processes.dec();
            }
            self.clean(tree.vaults);
        }
    }

    /// Takes files away; they are wiped a little later.
    pub(super) fn clean(&mut self, vaults: impl IntoIterator<Item = Vault>) {
        self.leaving.extend(vaults);
        if !self.leaving.is_empty() {
            self.take_away();
        }
    }

    /// Takes away the folders that are leaving, as many as there are descriptors for: each is kept open until its files are wiped.
    /// The others follow when some of these are.
    fn take_away(&mut self) {
        let most =
            usize::try_from(limits::descriptors() / PART).unwrap_or(usize::MAX) / self.share.of;
        let mut unknown = Vec::new();
        while self.wiping < most
            && let Some(vault) = self.leaving.pop_front()
        {
            if self.mounter.is_unknown(&vault) {
                unknown.push(vault);
                continue;
            }
            match self.mounter.remove(&vault) {
                Ok(opened) => {
                    self.wiping += 1;
                    self.due.add(Instant::now() + WIPE_AFTER, Due::Wipe(opened));
                }
                Err(e) if limits::is_for_lack(&e) => {
                    self.leaving.push_front(vault);
                    break;
                }
                Err(e) => tracing::warn!("secret files could not be taken away: {e}"),
            }
            self.mounter.forget(&vault);
        }
        let is_more = !unknown.is_empty() || !self.leaving.is_empty();
        // (behind those for which there were no descriptors, not to hold them up)
        self.leaving.extend(unknown);
        if is_more && !self.is_taking_away {
            self.is_taking_away = true;
            self.due.add(Instant::now() + LOOK_FOR_AFTER, Due::TakeAway);
        }
    }

    /// The same; those whose mount namespace is not known are looked for among the processes, some at a time. Where nobody is
    /// in it the kernel has taken them away.
    fn look_and_take_away(&mut self) {
        self.is_taking_away = false;
        let mounter = &self.mounter;
        let is_unknown = |vault: &&Vault| mounter.is_unknown(vault);
        let unknown: Vec<u64> = self
            .leaving
            .iter()
            .filter(is_unknown)
            .map(Vault::view)
            .collect();
        let is_all = self.mounter.look_for(&unknown).unwrap_or_else(|e| {
            tracing::warn!("not all mount namespaces could be looked for: {e}");
            false
        });
        if is_all {
            let mounter = &mut self.mounter;
            self.leaving.retain(|vault| {
                let is_there = !mounter.is_unknown(vault);
                if !is_there {
                    mounter.forget(vault);
                }
                is_there
            });
        }
        self.take_away();
        self.mounter.close_found();
    }

    /// How long to wait for records before there is something else to do.
    pub(super) fn until_due(&self) -> Option<TimeSpec> {
        if self.arrivals.is_any_standing() {
            return Some(TimeSpec::new(0, 0));
        }
        let now = Instant::now();
        // (what ends is told in passing)
        let look = (!self.trees.is_empty()).then(|| now + LOOK_FOR_ENDS);
        let waiting = self.waiting.iter().map(Deferred::until);
        let due = self.due.first().into_iter();
        let first = due
            .chain(waiting)
            .chain(self.arrivals.next_look())
            .chain(look)
            .min();
        first.map(|at| at.saturating_duration_since(now).into())
    }

    /// Does what is due. With its last descriptor a tmpfs is gone, and with the tmpfs its entry in the
    /// kernel side.
    pub(super) fn do_due(&mut self) {
        let now = Instant::now();
        self.look_at_due(now);
        while let Some(due) = self.due.take(now) {
            let vault = match due {
                Due::Wipe(vault) => vault,
                Due::Old(seal) => {
                    self.wipe_old(seal);
                    continue;
                }
                Due::Kill(process) => {
                    // (nobody, if it has ended)
                    process.signal(Signal::KILL);
                    continue;
                }
                Due::Begin(tgid) => {
                    if let Ok(Some(held)) = self.maps.held(tgid) {
                        self.comes(tgid, &held);
                    }
                    continue;
                }
                Due::Rotate => {
                    self.rotate();
                    continue;
                }
                Due::TakeAway => {
                    self.look_and_take_away();
                    continue;
                }
            };
            if let Err(e) = vault.wipe() {
                tracing::warn!("secret files could not be wiped: {e}");
                // Guarded while we keep it, and only as long as we lack something.
                if limits::is_for_lack(&e) {
                    self.due.add(Instant::now() + WIPE_AFTER, Due::Wipe(vault));
                    continue;
                }
            }
            self.wiping -= 1;
        }
    }

    /// What was in replaced files of a tree is wiped when who has them open has had its time.
    pub(super) fn wipe_old_later(&mut self, seal: u64) {
        self.due.add(Instant::now() + OLD_FOR, Due::Old(seal));
    }

    /// Nobody changes a tree's folders any more; where that has to wait for who has a replaced file open, later.
    fn wipe_old(&mut self, seal: u64) {
        let Some(tree) = self.trees.get(&seal) else {
            return;
        };
        let mut is_done = true;
        for vault in &tree.vaults {
            match self
                .mounter
                .open(vault)
                .and_then(|opened| opened.wipe_old())
            {
                Ok(is_closed) => is_done &= is_closed,
                Err(e) => {
                    tracing::warn!("replaced secret files could not be wiped: {e}");
                    is_done &= !limits::is_for_lack(&e);
                }
            }
        }
        if !is_done {
            self.wipe_old_later(seal);
        }
    }

    /// Ends the trees whose end we were not told of.
    pub(super) fn sweep(&mut self) {
        let living = self.maps.trees(self.scope);
        let mut gone: Vec<u64> = self
            .trees
            .keys()
            .filter(|seal| !living.contains_key(seal))
            .copied()
            .collect();
        // (what could not be read is not gone)
        gone.retain(|seal| self.maps.is_tree_gone(*seal));
        for seal in gone {
            self.forget(seal);
        }
    }
}
