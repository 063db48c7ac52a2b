//! The end of a secret's life: the process is gone, its files go, their memory is wiped.

use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

use nix::{errno::Errno, sys::time::TimeSpec};
use rustix::{
    fd::OwnedFd,
    process::{Signal, pidfd_send_signal},
};
use sidecar_common::event::{EXIT_LAST, EXIT_ROOT, Exit};

use super::{
    Work,
    deliver_file::{self, Vault},
    text,
};
use crate::observe::{Detail, Kind, Who};

/// How long after its last process a tree's files are wiped. Not at once: what was sent from them
/// without copying (`sendfile` into a pipe) is still these very pages until it is read.
const WIPE_AFTER: Duration = Duration::from_secs(2);
/// How long the old content of a replaced file is there for who has it open. Then it is wiped.
pub(super) const OLD_FOR: Duration = Duration::from_mins(1);

/// What is to be done at a time.
pub(super) enum Due {
    /// Files that were taken away are wiped.
    Wipe(Vault),
    /// What was in replaced files of a tree is wiped, and its folders are closed.
    Old {
        /// The tree's.
        seal: u64,
        files: Vec<File>,
    },
    /// A program that was asked to end is killed.
    Kill(OwnedFd),
    /// Who waited for more to be known has waited long enough.
    LookAgain,
}

impl Work {
    /// A sealed process ended; with the last of its tree, its files go.
    pub(super) fn end(&mut self, exit: &Exit) {
        let Some(tree) = self.trees.get_mut(&exit.seal) else {
            // it was refused, or would have been
            return self.forget_waiting(exit.seal);
        };
        if exit.flags & EXIT_ROOT != 0 {
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
                (0, Some(memory)) => memory.pid,
                (pid, _) => pid,
            };
            let who = Who {
                pid,
                process: tree.process.as_deref().unwrap_or(&comm),
                container: tree.place.container.as_ref(),
            };
            self.journal
                .emit(exit.header.time_ns, Kind::Exited, who, detail);
        }
        if exit.flags & EXIT_LAST != 0 {
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
        for vault in vaults {
            if let Err(e) = self.mounter.remove(&vault) {
                tracing::warn!("secret files could not be taken away: {e}");
            }
            self.due
                .push((Instant::now() + WIPE_AFTER, Due::Wipe(vault)));
        }
    }

    /// How long to wait for records before there is something else to do.
    pub(super) fn until_due(&self) -> Option<TimeSpec> {
        if self.arrivals.is_any_standing() {
            return Some(TimeSpec::new(0, 0));
        }
        let first = self.due.iter().map(|(at, _)| *at);
        let first = first.chain(self.arrivals.next_look()).min();
        first.map(|at| at.saturating_duration_since(Instant::now()).into())
    }

    /// Does what is due. With its last descriptor a tmpfs is gone, and with the tmpfs its entry in the
    /// kernel side.
    pub(super) fn do_due(&mut self) {
        let now = Instant::now();
        for (_, due) in self
            .due
            .extract_if(.., |(at, _)| *at <= now)
            .collect::<Vec<_>>()
        {
            let (wiped, again) = match due {
                Due::Wipe(vault) => (vault.wipe(), Due::Wipe(vault)),
                Due::Old { seal, files } => match files.iter().try_for_each(deliver_file::wipe) {
                    Ok(()) => {
                        drop(files);
                        self.close(seal);
                        continue;
                    }
                    wiped => (wiped, Due::Old { seal, files }),
                },
                Due::Kill(process) => {
                    // (nobody, if it has ended)
                    let _ = pidfd_send_signal(&process, Signal::KILL);
                    continue;
                }
                Due::LookAgain => {
                    self.look_again();
                    continue;
                }
            };
            let Err(e) = wiped else {
                continue;
            };
            tracing::warn!("secret files could not be wiped: {e}");
            // Guarded while we keep it, and only as long as we lack something.
            if is_for_lack(&e) {
                self.due.push((Instant::now() + WIPE_AFTER, again));
            }
        }
    }

    /// Nobody changes a tree's folders any more; where that has to wait for who has a replaced file open, later.
    fn close(&mut self, seal: u64) {
        let Some(tree) = self.trees.get(&seal) else {
            return;
        };
        for vault in &tree.vaults {
            match vault.close() {
                Ok(true) => {}
                Ok(false) => {
                    let files = Vec::new();
                    self.due
                        .push((Instant::now() + OLD_FOR, Due::Old { seal, files }));
                }
                Err(e) => tracing::warn!("a folder of secret files stays writable: {e}"),
            }
        }
    }

    /// Ends the trees whose end we were not told of.
    pub(super) fn sweep(&mut self) {
        let living = self.maps.trees(self.scope);
        let gone: Vec<u64> = self
            .trees
            .keys()
            .filter(|seal| !living.contains_key(seal))
            .copied()
            .collect();
        for seal in gone {
            self.forget(seal);
        }
    }
}

fn is_for_lack(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
    )
}
