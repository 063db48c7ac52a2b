//! The threads that deliver: as many as there are processors for us, so that what starts at once is served beside each other. Each
//! has trees of its own, of which the kernel side tells by its ring; nobody hands anything on.

use std::{
    convert::Infallible,
    io,
    num::NonZero,
    sync::Arc,
    thread::{self, JoinHandle},
};

use sidecar_common::layout::MAX_WORKERS;
use tokio::sync::mpsc;

use super::{Command, Commands, Sealer};
use crate::{config::Config, secrets::Store};

/// Each one's stack, in bytes.
const STACK: usize = 512 * 1024;

/// Tells when it is dropped that a thread has ended, be it by a panic.
struct End(mpsc::Sender<()>);

impl Drop for End {
    fn drop(&mut self) {
        // (one that is not heard any more, or was told of another)
        let _ = self.0.try_send(());
    }
}

/// See the module.
pub(crate) struct Crew(Vec<Worker>);

struct Worker {
    commands: Commands,
    thread: JoinHandle<io::Result<()>>,
}

impl Crew {
    /// How many there are to be: what our control group may use of the processors counts, too.
    pub(crate) fn size() -> usize {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        processors.clamp(1, MAX_WORKERS)
    }

    /// Starts one of each, and waits until they have all that they need; the receiver hears when one of them has ended.
    pub(crate) fn start(sealers: Vec<Sealer>) -> io::Result<(Self, mpsc::Receiver<()>)> {
        let (ended, has_ended) = mpsc::channel(sealers.len().max(1));
        let start = |sealer: Sealer| {
            let commands = Commands::new()?;
            let given = commands.clone();
            let end = End(ended.clone());
            let (ready, is_ready) = std::sync::mpsc::channel();
            let thread = thread::Builder::new()
                .name("sealer".into())
                .stack_size(STACK)
                .spawn(move || {
                    let result = sealer.run(given, &ready);
                    // Now: what comes after it may fail for the same reason, and hide it.
                    if let Err(e) = &result {
                        tracing::error!("a delivering thread failed: {e}");
                    }
                    drop(end);
                    result
                })?;
            Ok((Worker { commands, thread }, is_ready))
        };
        let started: io::Result<Vec<_>> = sealers.into_iter().map(start).collect();
        let mut workers = Vec::new();
        for (worker, is_ready) in started? {
            if is_ready.recv().is_err() {
                let failed = io::Error::other("a delivering thread panicked as it began");
                return Err(match worker.thread.join() {
                    Ok(Err(e)) => e,
                    _ => failed,
                });
            }
            workers.push(worker);
        }
        Ok((Self(workers), has_ended))
    }

    /// Gives all of them a command.
    pub(crate) fn give(&self, command: impl Fn() -> Command) -> io::Result<()> {
        self.0
            .iter()
            .try_for_each(|worker| worker.commands.give(command()))
    }

    /// Has them work by another configuration. When all do, the receiver hears that nobody sends any more.
    pub(crate) fn reconfigure(
        &self,
        config: &Arc<Config>,
        store: &Arc<Store>,
    ) -> io::Result<mpsc::Receiver<Infallible>> {
        let (done, is_done) = mpsc::channel(1);
        self.give(|| Command::Reconfigure(config.clone(), store.clone(), done.clone()))?;
        Ok(is_done)
    }

    /// Whether all have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.iter().all(|worker| worker.thread.is_finished())
    }

    /// What came of those that have ended; `None` where one is still busy, or ended of itself.
    pub(crate) fn outcome(self) -> Option<io::Result<()>> {
        let mut outcome = Some(Ok(()));
        for Worker { thread, .. } in self.0 {
            let one = if thread.is_finished() {
                thread.join().ok()
            } else {
                None
            };
            match one {
                Some(Ok(())) => {}
                Some(Err(e)) => return Some(Err(e)),
                None => outcome = None,
            }
        }
        outcome
    }
}
