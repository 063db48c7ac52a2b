//! An agent at work: from the moment its programs are held until nobody waits for it any more.

use std::{
    convert::Infallible,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::{
    acquire::{Acquired, acquire, request},
    guard_watch::{self, GuardWatch},
    is_started_from_outside, own_pod,
};
use crate::{
    config::{Config, Mode, Policy},
    guardian::Guardian,
    kernel::{Maps, ScopeLease, pins},
    observe::{Journal, Lifecycle, Metrics, http::Server},
    process::{Pods, SharedWhereabouts, Whereabouts},
    seal::{Command, Counting, Crew, GivenUp, Sealer, Share, StartedWith, Turns, Watchdog},
    secrets::Store,
    util::interval,
};

/// See the module.
pub(super) struct ActiveAgent {
    lease: ScopeLease,
    guardian: Guardian,
    guard: GuardWatch,
    mode: Mode,
    watchdog: Watchdog,
    crew: Crew,
}

impl ActiveAgent {
    /// Begins; `pods` are the node's, where an agent that answers for one can know them. The receiver hears when
    /// a delivering thread has ended.
    pub(super) async fn begin(
        config: &Arc<Config>,
        store: Store,
        metrics: &Metrics,
        pods: Option<Pods>,
        journal: Journal,
        server: &mut Option<Server>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<()>)> {
        let audit_log = config.monitoring.audit_log.as_deref();
        let Acquired {
            lease,
            rings,
            others,
            own_cgroup,
        } = acquire(config)?;
        let scope = lease.scope();
        let guardian = Guardian::start(audit_log)?;
        // Before anything is kept in memory, and before the first program is delivered to.
        let guard = match GuardWatch::begin(guardian.pid(), metrics.clone(), journal.clone()) {
            Ok(guard) => guard,
            Err(e) => {
                let under_seal = Maps::open()?.sealed_in(scope);
                lease.leave(&pins::lock()?, under_seal)?;
                guardian.dismiss();
                return Err(e.into());
            }
        };
        if let Some(server) = server {
            server.begin();
        }
        // Now that this process is guarded: what is kept elsewhere comes into memory here, and not before (nothing
        // before this waits, so that no task that listens has run). What is held meanwhile waits no longer than it may.
        store.settle(config.policy.hold_timeout).await;
        let mut watchdog = Watchdog {
            maps: Maps::open()?,
            scope,
            journal: journal.clone(),
            metrics: metrics.clone(),
            on_failure: config.policy.on_failure,
            hold_timeout: config.policy.hold_timeout,
            given_up: GivenUp::default(),
            turns: Turns::new(rings.len()),
            config: Some(config.clone()),
        };
        for maps in others {
            watchdog.succeed_agent_of(maps);
        }
        let workers = rings.len();
        let (store, counting, told_losses) =
            (Arc::new(store), Arc::new(Counting::new()), Arc::default());
        let whereabouts = Whereabouts::new(&own_cgroup, own_pod(), pods);
        let whereabouts = SharedWhereabouts::new(whereabouts.context("look up where we live")?);
        let started_with = StartedWith::default();
        let mut sealers = Vec::with_capacity(workers);
        for (number, ring) in rings.into_iter().enumerate() {
            sealers.push(Sealer {
                share: Share {
                    number,
                    of: workers,
                },
                config: config.clone(),
                store: store.clone(),
                scope,
                whereabouts: whereabouts.clone(),
                started_with: started_with.clone(),
                maps: Maps::open()?,
                ring,
                journal: journal.clone(),
                metrics: metrics.clone(),
                given_up: watchdog.given_up.clone(),
                turns: watchdog.turns.clone(),
                digests: Arc::clone(&counting),
                told_losses: Arc::clone(&told_losses),
            });
        }
        let (crew, has_ended) = Crew::start(sealers)?;
        let in_a_pod = is_started_from_outside();
        tracing::info!(scope, workers, bindings = config.secrets.len(), mode = ?config.policy.mode, in_a_pod, "watching");
        let mode = config.policy.mode;
        let active = Self {
            lease,
            guardian,
            guard,
            mode,
            watchdog,
            crew,
        };
        Ok((active, has_ended))
    }

    /// To be called from time to time.
    pub(super) fn look(&mut self) {
        self.watchdog.look(self.watchdog.hold_timeout);
        self.guardian.renew();
        self.guard.look(self.guardian.pid(), self.mode.name());
    }

    /// How often [`look`](Self::look) wants to be called.
    pub(super) fn interval(policy: &Policy) -> Duration {
        Watchdog::interval(policy).min(guard_watch::INTERVAL)
    }

    /// Whether the guard worked when it was last looked at.
    pub(super) fn is_guarded(&self) -> bool {
        self.guard.is_up()
    }

    /// Waits until a store knows what is kept elsewhere, or will not soon. Looks on meanwhile.
    pub(super) async fn settle(&mut self, store: &Store, policy: &Policy) {
        let begun = Instant::now();
        let mut tick = interval(Self::interval(policy));
        loop {
            tokio::select! {
                () = store.settle(policy.hold_timeout.saturating_sub(begun.elapsed())) => return,
                _ = tick.tick() => self.look(),
            }
        }
    }

    /// A source may have another value.
    pub(super) fn refresh(&self) -> anyhow::Result<()> {
        Ok(self.crew.give(|| Command::Refresh)?)
    }

    /// More may be known of what waits for that.
    pub(super) fn look_again(&self) -> anyhow::Result<()> {
        Ok(self.crew.give(|| Command::LookAgain)?)
    }

    /// Has the delivering threads work by another configuration. When that is done the receiver hears, and it is
    /// time to [`renew`](Self::renew).
    pub(super) fn reconfigure(
        &mut self,
        config: &Arc<Config>,
        store: Store,
    ) -> anyhow::Result<mpsc::Receiver<Infallible>> {
        self.watchdog.on_failure = config.policy.on_failure;
        self.watchdog.hold_timeout = config.policy.hold_timeout;
        self.watchdog.config = Some(config.clone());
        Ok(self.crew.reconfigure(config, &Arc::new(store))?)
    }

    /// Asks the kernel side for what the configuration says. A new name only now: what is held must find a thread
    /// that knows it.
    pub(super) fn renew(&mut self, config: &Config) -> anyhow::Result<()> {
        self.lease.renew(&pins::lock()?, &request(config))?;
        self.mode = config.policy.mode;
        self.guard.set_asked_for(self.mode != Mode::Disabled);
        Ok(())
    }

    /// Ends in order: what is held is delivered first.
    pub(super) fn end(self, policy: &Policy, has_ended_early: bool) -> anyhow::Result<()> {
        let Self {
            mut lease,
            guardian,
            guard,
            mode,
            mut watchdog,
            crew,
        } = self;
        tracing::info!("ending");
        watchdog
            .journal
            .emit_lifecycle(Lifecycle::Stopping, mode.name(), None);
        lease.stop_holding(&pins::lock()?)?;
        crew.give(|| Command::Stop)?;
        wait_for(&mut watchdog, policy, &crew);
        // Whatever happened, nobody stays stopped.
        watchdog.look(Duration::ZERO);
        let result = crew.outcome();
        let under_seal = watchdog.maps.sealed_in(lease.scope());
        lease.leave(&pins::lock()?, under_seal)?;
        drop(guard);
        guardian.dismiss();
        drop(watchdog);
        match result {
            Some(Ok(())) if !has_ended_early => Ok(()),
            None if !has_ended_early => {
                tracing::warn!("a delivering thread is still busy; it ends with the process");
                Ok(())
            }
            Some(Err(e)) => Err(e).context("a delivering thread failed"),
            _ => bail!("a delivering thread ended unexpectedly"),
        }
    }
}

/// Gives the delivering threads the time a hold may take to come to their end.
fn wait_for(watchdog: &mut Watchdog, policy: &Policy, crew: &Crew) {
    const STEP: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    while !crew.has_ended() && begun.elapsed() < policy.hold_timeout {
        thread::sleep(STEP);
        watchdog.look(policy.hold_timeout);
    }
}
