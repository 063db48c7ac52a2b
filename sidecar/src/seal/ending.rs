//! The end of a secret's life: the process is gone, its files go, their memory is wiped.

use std::time::{Duration, Instant};

use nix::{errno::Errno, poll::PollTimeout};
use sidecar_common::event::{EXIT_LAST, EXIT_ROOT, Exit};

use super::{Work, deliver_file::Vault, text};
use crate::observe::{Detail, Kind, Who};

/// How long after its last process a tree's files are wiped. Not at once: what was sent from them
/// without copying (`sendfile` into a pipe) is still these very pages until it is read.
const WIPE_AFTER: Duration = Duration::from_secs(2);

impl Work<'_> {
    /// A sealed process ended; with the last of its tree, its files go.
    pub(super) fn end(&mut self, exit: &Exit) {
        let Some(tree) = self.trees.get_mut(&exit.seal) else {
            return; // it was refused
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
            let who = Who {
                pid: exit.pid,
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
            self.unmounted
                .push_back((Instant::now() + WIPE_AFTER, vault));
        }
    }

    /// How long to wait for records before the next wipe is due.
    pub(super) fn until_next_wipe(&self) -> PollTimeout {
        self.unmounted
            .front()
            .map_or(PollTimeout::NONE, |(due, _)| {
                let left = due.saturating_duration_since(Instant::now());
                // Rounded up, not to come a moment too early, again and again.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            })
    }

    /// Wipes what was unmounted long enough ago. With its last descriptor the tmpfs is gone, and
    /// with the tmpfs its entry in the kernel side.
    pub(super) fn wipe_due(&mut self) {
        while let Some((due, vault)) = self.unmounted.pop_front() {
            if due > Instant::now() {
                self.unmounted.push_front((due, vault));
                return;
            }
            let Err(e) = vault.wipe() else {
                continue;
            };
            tracing::warn!("secret files could not be wiped: {e}");
            // Guarded while we keep it, and only as long as we lack something.
            if matches!(
                e.raw_os_error().map(Errno::from_raw),
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)
            ) {
                self.unmounted
                    .push_back((Instant::now() + WIPE_AFTER, vault));
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
