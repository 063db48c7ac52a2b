//! Word that a cached secret is not what it was: rotation begins with it.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells of changes. Clones tell the same listeners.
#[derive(Clone, Default)]
pub(crate) struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    /// A secret is another than before.
    pub(super) fn tell(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Changes from here on: the number of changes so far, seen with `has_changed` or awaited with
    /// `changed`.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
