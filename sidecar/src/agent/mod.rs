//! The one place that wires everything: from a configuration to an agent at work, and its end.

mod acquire;
mod active_agent;
mod config_reload;
mod guard_watch;
mod neighbours;
mod objects;
mod own_events;
mod pod_events;
mod readiness;
mod server;
mod unknown_image;
mod unmatched;

use std::{
    convert::Infallible,
    fmt::Display,
    future,
    os::unix::process::parent_id,
    path::{Path, PathBuf},
    pin::pin,
};

use anyhow::{Context as _, ensure};
use tokio::{sync::mpsc, time::Interval};

pub(crate) use self::acquire::load_kernel_side;
use self::{
    acquire::ensure_loaded,
    active_agent::ActiveAgent,
    config_reload::{ConfigReloader, Signals},
    neighbours::Neighbours,
    objects::SyscallMonitorController,
    own_events::OwnEvents,
    readiness::Readiness,
    unmatched::Unmatched,
};
use crate::{
    config::{self, Config, Mode, Position},
    kernel::{self, pins},
    limits,
    monitor::Monitors,
    observe::{self, Journal, Metrics},
    privileges,
    process::{LABELS, Pod, Pods},
    secrets::{self, SecretBackends, Store},
    unsupported,
    util::{FileWatcher, interval},
};

/// `kernelseal run`: until SIGTERM or SIGINT.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    // (what cannot be done is told when there is a log)
    let config = config::load(path).map_err(anyhow::Error::new)?;
    let _log = observe::log::start(config.monitoring.log_level, config.monitoring.log_format);
    if config.policy.mode != Mode::Disabled {
        privileges::ensure_root()?;
    }
    // Before the first secret is read.
    if let Some(why) = secrets::protect_process() {
        tracing::warn!("secrets in this process's memory may be swapped out: {why}");
    }
    refuse_what_cannot_be_done(path, &config)?;
    limits::raise();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(serve(path, config));
    // (a monitor that is being loaded is not waited for)
    runtime.shutdown_background();
    done
}

/// A configuration that we can do.
fn read(path: &Path) -> anyhow::Result<Config> {
    let config = config::load(path).map_err(anyhow::Error::new)?;
    refuse_what_cannot_be_done(path, &config)?;
    Ok(config)
}

/// What parses but does nothing, or nothing here, must not be taken for protection.
fn refuse_what_cannot_be_done(path: &Path, config: &Config) -> anyhow::Result<()> {
    let found = unsupported::find(
        config,
        own_pod().as_ref(),
        Path::new(LABELS).exists(),
        neighbours::can_be_known(),
    );
    ensure!(found.is_empty(), in_file(path, found));
    Ok(())
}

async fn open_store(
    path: &Path,
    config: &Config,
    backends: &mut SecretBackends,
) -> anyhow::Result<Store> {
    let store = Store::open(config, backends).await;
    store.map_err(|wrong| anyhow::anyhow!(in_file(path, wrong)))
}

/// A line each, with the place in the configuration.
fn in_file(path: &Path, wrong: Vec<(Position, impl Display)>) -> String {
    let lines: Vec<String> = wrong
        .into_iter()
        .map(|(at, what)| format!("{}:{at}: {what}", path.display()))
        .collect();
    lines.join("\n")
}

async fn serve(path: &Path, config: Config) -> anyhow::Result<()> {
    // Before anything is held: a signal from here on is an orderly end.
    let mut signals = Signals::new()?;
    let audit_log = config.monitoring.audit_log.as_deref();
    let metrics = Metrics::new()?;
    let (mut journal, writer) =
        Journal::start(audit_log, metrics.events_dropped.clone()).context("monitoring.auditLog")?;
    pod_events::begin(&mut journal);
    let result = match ensure_alone(&config) {
        Ok(()) => serve_until(path, config, &mut signals, journal, metrics).await,
        Err(e) => Err(e.into()),
    };
    writer.finish();
    result
}

/// Until a signal, or a failure.
async fn serve_until(
    path: &Path,
    config: Config,
    signals: &mut Signals,
    journal: Journal,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut ready = Readiness::default();
    let mut backends = SecretBackends::default();
    let pods = Pods::default();
    let mut server = server::wire(&config, &metrics, &ready, backends.known(), &pods)?;
    let mut reloader = ConfigReloader::of(path, config, metrics.clone(), journal.clone())?;
    let mut neighbours = Neighbours::find().await?;
    let mut objects = SyscallMonitorController::of(neighbours.as_ref());
    let mut known = None;
    // Before the first secret is read.
    ensure_guard_works(&reloader.config)?;
    let mut store = open_store(path, &reloader.config, &mut backends).await?;
    let mut monitors = Monitors::new(journal.clone(), metrics.clone(), own_pod());
    let mut own = OwnEvents::new(journal.clone());
    while reloader.config.policy.mode == Mode::Disabled {
        own.waits_disabled();
        known = known.or_else(|| neighbours.take().map(|found| found.listen(&pods)));
        monitors.know(known.clone());
        objects.heed_edit(&mut monitors, &reloader.config).await?;
        store.settle(reloader.config.policy.hold_timeout).await;
        ready.set_unguarded_by_policy();
        if !is_edited(&mut reloader, &mut objects, &mut monitors, signals).await {
            own.stopping(Mode::Disabled);
            return Ok(());
        }
        match open_store(path, &reloader.config, &mut backends).await {
            Ok(opened) => (store, ()) = (opened, reloader.accept()),
            Err(e) => reloader.reject(&e),
        }
    }
    ready.set_in_force(false);
    ensure_guard_works(&reloader.config)?;
    let mut sources = FileWatcher::at(store.files(&reloader.config));
    let mut changes = backends.changes().listen();
    let mut others = pods.subscribe_to_changes();
    // Do not `.await` between here and `ActiveAgent::begin`: tasks that watch secrets would cache values before this process is
    // guarded.
    let known = known.or_else(|| neighbours.map(|neighbours| neighbours.listen(&pods)));
    monitors.know(known.clone());
    let config = reloader.config.clone();
    let (mut active, mut has_ended) =
        ActiveAgent::begin(&config, store, &metrics, known, journal, &mut server).await?;
    own.started(reloader.config.policy.mode);
    ready.set_guarded(active.is_guarded());
    // (only now: where something is sealed already, the guard lets nobody but the scope's agent open perf events)
    let mut tick = interval(ActiveAgent::interval(&reloader.config.policy));
    let heeding = objects.heed_edit(&mut monitors, &reloader.config);
    let heeded = meanwhile(heeding, &mut active, &mut tick, signals).await;
    if !matches!(heeded, Some(Ok(()))) {
        active.end(&reloader.config.policy, false)?;
        return heeded.unwrap_or(Ok(()));
    }
    ready.set_in_force(true);
    let unmatched = Unmatched::begin(reloader.config.clone());

    let mut applied = None;
    // (the kernel side may have no room for it now, and later)
    let mut is_renewed = true;
    let has_ended_early = loop {
        tokio::select! {
            () = signals.end() => break false,
            _ = has_ended.recv() => break true,
            _ = tick.tick() => {
                is_renewed = look(&mut active, &mut reloader, &mut ready, is_renewed);
                if monitors.have_failed() {
                    ready.set_in_force(false);
                }
            }
            () = sources.change() => active.refresh()?,
            Ok(()) = changes.changed() => active.refresh()?,
            Ok(()) = others.changed() => active.look_again()?,
            () = reloader.next() => {
                let config = reloader.config.clone();
                let taking = take_up(path, &config, &mut backends, &mut objects, &mut monitors);
                let store = match meanwhile(taking, &mut active, &mut tick, signals).await {
                    Some(Ok(store)) => store,
                    Some(Err(e)) => {
                        reloader.reject(&e);
                        continue;
                    }
                    None => break false,
                };
                sources = FileWatcher::at(store.files(&reloader.config));
                tick = interval(ActiveAgent::interval(&reloader.config.policy));
                active.settle(&store, &reloader.config.policy).await;
                applied = Some(active.reconfigure(&reloader.config, store)?);
            }
            () = objects.change() => {
                let heeding = objects.heed(&mut monitors, &reloader.config.monitoring.syscalls);
                if meanwhile(heeding, &mut active, &mut tick, signals).await.is_none() {
                    break false;
                }
            }
            () = heard(&mut applied) => {
                applied = None;
                is_renewed = renew(&mut active, &mut reloader, &mut ready);
                unmatched.look(reloader.config.clone());
            }
        }
    };
    ready.set_in_force(false);
    let ended = active.end(&reloader.config.policy, has_ended_early);
    // (which may take its time: the kernel waits for each probe to be quiet)
    drop(monitors);
    ended
}

/// Waits for another configuration, and heeds objects meanwhile; `false` if a signal ends us first.
async fn is_edited(
    reloader: &mut ConfigReloader,
    objects: &mut SyscallMonitorController,
    monitors: &mut Monitors,
    signals: &mut Signals,
) -> bool {
    let syscalls = reloader.config.monitoring.syscalls.clone();
    loop {
        tokio::select! {
            () = signals.end() => return false,
            () = reloader.next() => return true,
            () = objects.change() => objects.heed(monitors, &syscalls).await,
        }
    }
}

/// Opens what another configuration names, and has the monitors heed it. Before anything of it is in force: what cannot
/// be attached is refused with the rest.
async fn take_up(
    path: &Path,
    config: &Config,
    backends: &mut SecretBackends,
    objects: &mut SyscallMonitorController,
    monitors: &mut Monitors,
) -> anyhow::Result<Store> {
    let store = open_store(path, config, backends).await?;
    objects.heed_edit(monitors, config).await?;
    Ok(store)
}

/// Has the kernel side take the last configuration; whether it did.
fn renew(active: &mut ActiveAgent, reloader: &mut ConfigReloader, ready: &mut Readiness) -> bool {
    let renewed = active.renew(&reloader.config);
    ready.set_in_force(renewed.is_ok());
    match &renewed {
        Ok(()) => reloader.accept(),
        Err(e) => reloader.is_in_force_by_halves(e),
    }
    renewed.is_ok()
}

/// Looks after what is held and whether the guard works, and renews what the kernel side did not take; whether it has it now.
fn look(
    active: &mut ActiveAgent,
    reloader: &mut ConfigReloader,
    ready: &mut Readiness,
    is_renewed: bool,
) -> bool {
    active.look();
    ready.set_guarded(active.is_guarded());
    if is_renewed || active.renew(&reloader.config).is_err() {
        return is_renewed;
    }
    ready.set_in_force(true);
    reloader.accept();
    true
}

/// Loads the kernel side if it is not there, and sees hooks run: a configuration that asks for a guard is not begun without.
fn ensure_guard_works(config: &Config) -> anyhow::Result<()> {
    if config.policy.mode != Mode::Disabled {
        privileges::ensure_root()?;
        ensure_loaded()?;
        kernel::ensure_fires()?;
    }
    Ok(())
}

/// Another agent of this scope is told of before what it has already, such as the port. Whatever else is wrong with the kernel
/// side is told by who becomes the agent.
fn ensure_alone(config: &Config) -> Result<(), kernel::Error> {
    if config.policy.mode == Mode::Disabled || !pins::exist() {
        return Ok(());
    }
    let look = || {
        let lock = pins::lock()?;
        kernel::ensure_free(&pins::dir(), kernel::own_scope()?, &lock)
    };
    match look() {
        Err(taken @ kernel::Error::ScopeTaken { .. }) => Err(taken),
        _ => Ok(()),
    }
}

/// Waits for something that takes its time, and looks after what is held meanwhile; `None` if a signal ends us first.
async fn meanwhile<T>(
    work: impl Future<Output = T>,
    active: &mut ActiveAgent,
    tick: &mut Interval,
    signals: &mut Signals,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            () = signals.end() => return None,
            _ = tick.tick() => active.look(),
        }
    }
}

/// Our own control group, from the machine's root; that root where no kernel side is there to ask.
fn own_cgroup() -> PathBuf {
    let asked = pins::lock().and_then(|lock| kernel::own_cgroup(&lock));
    asked.unwrap_or_else(|_| "/".into())
}

/// Waits for an answer, if one is awaited.
async fn heard(answer: &mut Option<mpsc::Receiver<Infallible>>) {
    match answer {
        // (nobody sends; who has done it, or has ended, lets go of his end)
        Some(answer) => drop(answer.recv().await),
        None => future::pending().await,
    }
}

/// The pod that all we see belongs to: there is one where we live in a pod's PID namespace.
fn own_pod() -> Option<Pod> {
    is_started_from_outside().then(Pod::of_agent)
}

/// Whether who started us lives outside of our PID namespace, as a pod's runtime does: then nobody in
/// it needs to stop us, or to look into us. (A parent that we cannot see has the number 0.)
pub(crate) fn is_started_from_outside() -> bool {
    parent_id() == 0
}
