//! The one place that wires everything: from a configuration to an agent at work, and its end.

use std::{
    collections::BTreeSet,
    fmt::Display,
    os::unix::process::parent_id,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sidecar_common::policy::{
    SCOPE_ALL_EXECS, SCOPE_AUDIT_ALL, SCOPE_BLOCK_ENVIRON, SCOPE_BLOCK_MAPS, SCOPE_BLOCK_MEM,
    SCOPE_BLOCK_PTRACE, SCOPE_ENFORCE, SCOPE_FAIL_OPEN, SCOPE_POD, SCOPE_SELF_READ,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::{
    config::{self, Config, Mode, Monitoring, OnFailure, Policy, Position},
    guardian::Guardian,
    kernel::{self, Claim, Maps, Ring, pins},
    not_yet,
    observe::{self, Journal, Metrics},
    seal::{GivenUp, Sealer, Watchdog},
    secrets::{self, Known, Origins, Store},
    takeover::Others,
};

/// The delivering thread's stack, in bytes.
const SEALER_STACK: usize = 512 * 1024;

/// `kernelseal run`: until SIGTERM or SIGINT.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    let config = config::load(path).map_err(anyhow::Error::new)?;
    let _log = observe::log::start(config.monitoring.log_level, config.monitoring.log_format);
    // Before the first secret is read.
    if let Some(why) = secrets::protect_process() {
        tracing::warn!("secrets in this process's memory may be swapped out: {why}");
    }
    refuse_what_is_not_here_yet(path, &config)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(path, Arc::new(config)))
}

/// `kernelseal load`: the kernel side, if it is not there yet.
pub(crate) fn load_kernel_side() -> anyhow::Result<()> {
    let lock = pins::lock()?;
    if !pins::exist() {
        pins::load_and_pin(&lock)?;
    }
    Ok(())
}

/// Loads in a process of its own: what the verifier's types and the kernel's BTF take of memory is
/// gone with it, and the first agent is like every later one.
fn ensure_loaded() -> anyhow::Result<()> {
    if pins::exist() {
        return Ok(());
    }
    tracing::info!("loading the kernel side");
    let loader = Command::new("/proc/self/exe")
        .arg("load")
        .env_clear()
        .output()
        .context("start the loader")?;
    // In a pod that an agent left, only what was started from outside of it uses bpf(2): not a child.
    if !loader.status.success() && is_started_from_outside() {
        return load_kernel_side();
    }
    let said = String::from_utf8_lossy(&loader.stderr);
    let said = said.trim_end();
    ensure!(
        loader.status.success(),
        "{}",
        said.strip_prefix("kernelseal: ").unwrap_or(said)
    );
    Ok(())
}

/// What parses but does not exist yet must not be taken for protection.
fn refuse_what_is_not_here_yet(path: &Path, config: &Config) -> anyhow::Result<()> {
    let found = not_yet::find(config);
    ensure!(found.is_empty(), in_file(path, found));
    Ok(())
}

async fn open_store(path: &Path, config: &Config, origins: &mut Origins) -> anyhow::Result<Store> {
    let store = Store::open(config, origins).await;
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

async fn serve(path: &Path, config: Arc<Config>) -> anyhow::Result<()> {
    // Before anything is held: a signal from here on is an orderly end.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Metrics::new()?;
    let ready = Arc::new(AtomicBool::new(false));
    let mut origins = Origins::default();
    listen(&config.monitoring, &metrics, &ready, origins.known()).await?;
    let store = open_store(path, &config, &mut origins).await?;
    if config.policy.mode == Mode::Disabled {
        store.settle(config.policy.hold_timeout).await;
        idle(&ready, &mut terminate, &mut interrupt).await;
        return Ok(());
    }

    let (journal, writer) =
        Journal::start(config.monitoring.audit_log.as_deref()).context("monitoring.auditLog")?;
    let (mut claim, ring, others) = stake(&config)?;
    let scope = claim.scope();
    let mut guardian = Guardian::start(config.monitoring.audit_log.as_deref())?;
    // Now that this process is guarded: what is kept elsewhere comes into memory here, and not before. What is
    // held meanwhile waits no longer than it may.
    store.settle(config.policy.hold_timeout).await;
    let mut watchdog = Watchdog {
        maps: Maps::open()?,
        scope,
        journal: journal.clone(),
        metrics: metrics.clone(),
        on_failure: config.policy.on_failure,
        hold_timeout: config.policy.hold_timeout,
        given_up: GivenUp::default(),
    };
    for maps in others {
        watchdog.succeed_agent_of(maps);
    }
    let sealer = Sealer {
        config: config.clone(),
        store,
        scope,
        maps: Maps::open()?,
        ring,
        journal,
        metrics,
        given_up: watchdog.given_up.clone(),
    };
    let stop = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?);
    let (ended, mut has_ended) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("sealer".into())
        .stack_size(SEALER_STACK)
        .spawn({
            let stop = stop.clone();
            move || {
                let result = sealer.run(&stop);
                // Now: what comes after it may fail for the same reason, and hide it.
                if let Err(e) = &result {
                    tracing::error!("the delivering thread failed: {e}");
                }
                let _ = ended.send(());
                result
            }
        })?;
    ready.store(true, Ordering::Relaxed);
    let in_a_pod = is_started_from_outside();
    tracing::info!(scope, bindings = config.secrets.len(), mode = ?config.policy.mode, in_a_pod, "watching");

    let mut tick = tokio::time::interval(Watchdog::interval(&config.policy));
    let ended_early = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            _ = &mut has_ended => break true,
            _ = tick.tick() => {
                watchdog.look(config.policy.hold_timeout);
                guardian.renew();
            }
        }
    };
    ready.store(false, Ordering::Relaxed);
    tracing::info!("ending");
    claim.stop_holding(&pins::lock()?)?;
    stop.write(1)?;
    wait_for(&mut watchdog, &config.policy, &thread);
    // Whatever happened, nobody stays stopped.
    watchdog.look(Duration::ZERO);
    let result = if thread.is_finished() {
        thread.join().ok()
    } else {
        None
    };
    let under_seal = watchdog.maps.sealed_in(scope);
    claim.leave(&pins::lock()?, under_seal)?;
    guardian.dismiss();
    drop(watchdog);
    writer.finish();
    match result {
        Some(Ok(())) if !ended_early => Ok(()),
        None if !ended_early => {
            tracing::warn!("the delivering thread is still busy; it ends with the process");
            Ok(())
        }
        Some(Err(e)) => Err(e).context("the delivering thread failed"),
        _ => bail!("the delivering thread ended unexpectedly"),
    }
}

/// Does nothing but answer over HTTP, until it is to end.
async fn idle(ready: &AtomicBool, terminate: &mut Signal, interrupt: &mut Signal) {
    tracing::warn!(
        "policy.mode is disabled: nothing is attached, programs start without their secrets"
    );
    ready.store(true, Ordering::Relaxed);
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
}

/// Answers over HTTP from here on, if the configuration asks for it.
async fn listen(
    monitoring: &Monitoring,
    metrics: &Metrics,
    ready: &Arc<AtomicBool>,
    known: Known,
) -> anyhow::Result<()> {
    if monitoring.enabled && monitoring.metrics_port != 0 {
        let port = monitoring.metrics_port;
        metrics.ages({
            let known = known.clone();
            move || known.ages()
        })?;
        let notes = move || {
            let weaker = kernel::version::weaker().map(str::to_owned);
            weaker.chain(known.notes()).collect()
        };
        let server = observe::serve(port, metrics.clone(), ready.clone(), notes)
            .await
            .with_context(|| format!("monitoring.metricsPort {port}"))?;
        tokio::spawn(server);
    }
    Ok(())
}

/// Gives the delivering thread the time a hold may take to come to its end.
fn wait_for<T>(watchdog: &mut Watchdog, policy: &Policy, thread: &thread::JoinHandle<T>) {
    const STEP: Duration = Duration::from_millis(5);
    let mut left = policy.hold_timeout;
    while !thread.is_finished() && !left.is_zero() {
        thread::sleep(STEP);
        left = left.saturating_sub(STEP);
        watchdog.look(policy.hold_timeout);
    }
}

/// Becomes the scope's agent. Also gives the maps of other versions under which programs go on.
fn stake(config: &Config) -> anyhow::Result<(Claim, Ring, Vec<Maps>)> {
    ensure_loaded()?;
    let wish = kernel::Wish {
        flags: flags(&config.policy),
        names: config
            .secrets
            .iter()
            .map(|binding| binding.selector.basename().as_bytes())
            .collect::<BTreeSet<_>>(),
    };
    let lock = pins::lock()?;
    let scope = kernel::own_scope()?;
    let others = Others::find(scope, &lock)?;
    let (claim, ring) = Claim::stake(&lock, &wish)?;
    others.hand_over(scope, &lock)?;
    Ok((claim, ring, others.retire(&lock)?))
}

/// Whether who started us lives outside of our PID namespace, as a pod's runtime does: then nobody in
/// it needs to stop us, or to look into us. (A parent that we cannot see has the number 0.)
pub(crate) fn is_started_from_outside() -> bool {
    parent_id() == 0
}

/// The policy in the kernel side's terms.
fn flags(policy: &Policy) -> u32 {
    [
        (policy.mode == Mode::Enforce, SCOPE_ENFORCE),
        (policy.block_environ, SCOPE_BLOCK_ENVIRON),
        (policy.block_mem, SCOPE_BLOCK_MEM),
        (policy.block_maps, SCOPE_BLOCK_MAPS),
        (policy.block_ptrace, SCOPE_BLOCK_PTRACE),
        (policy.allow_self_read, SCOPE_SELF_READ),
        (policy.audit_all, SCOPE_AUDIT_ALL),
        (!policy.kernel_binary_filter, SCOPE_ALL_EXECS),
        (policy.on_failure == OnFailure::Allow, SCOPE_FAIL_OPEN),
        (is_started_from_outside(), SCOPE_POD),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .sum()
}
