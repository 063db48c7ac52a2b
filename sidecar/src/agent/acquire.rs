//! How this process becomes its scope's agent: the kernel side is there, and is told what is asked of it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use sidecar_common::policy::ScopeFlags;

use super::is_started_from_outside;
use crate::{
    config::{Config, Mode, OnFailure, Policy, Provenance},
    kernel::{self, Maps, Ring, ScopeLease, pins},
    limits,
    seal::Crew,
    takeover::Others,
};

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
pub(super) fn ensure_loaded() -> anyhow::Result<()> {
    if pins::exist() {
        return Ok(());
    }
    tracing::info!("loading the kernel side");
    let mut loader = Command::new("/proc/self/exe");
    loader.arg("load").env_clear();
    let loader = limits::output(&mut loader).context("start the loader")?;
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

/// What it takes to be the scope's agent.
pub(super) struct Acquired {
    pub(super) lease: ScopeLease,
    /// One for each delivering thread.
    pub(super) rings: Vec<Ring>,
    /// The maps of other versions under which programs go on.
    pub(super) others: Vec<Maps>,
    pub(super) own_cgroup: PathBuf,
}

/// Becomes the scope's agent.
pub(super) fn acquire(config: &Config) -> anyhow::Result<Acquired> {
    ensure_loaded()?;
    let lock = pins::lock()?;
    let scope = kernel::own_scope()?;
    let others = Others::find(scope, &lock)?;
    let (lease, rings) = ScopeLease::acquire(&lock, &request(config), Crew::size())?;
    others.hand_over(scope, &lock)?;
    Ok(Acquired {
        lease,
        rings,
        others: others.retire(&lock)?,
        own_cgroup: kernel::own_cgroup(&lock)?,
    })
}

/// What is asked of the kernel side.
pub(super) fn request(config: &Config) -> kernel::ScopeRequest<'_> {
    let is_disabled = config.policy.mode == Mode::Disabled;
    let watched = || config.secrets.iter().filter(|_| !is_disabled);
    kernel::ScopeRequest {
        flags: flags(&config.policy),
        has_image_only: watched()
            .any(|binding| binding.selector.provenance == Some(Provenance::ImageAndLibraries)),
        names: watched()
            .map(|binding| binding.selector.basename().as_bytes())
            .collect(),
    }
}

/// The policy in the kernel side's terms.
fn flags(policy: &Policy) -> ScopeFlags {
    [
        (policy.mode == Mode::Enforce, ScopeFlags::ENFORCE),
        (policy.mode == Mode::Disabled, ScopeFlags::DISABLED),
        (policy.block_environ, ScopeFlags::BLOCK_ENVIRON),
        (policy.block_mem, ScopeFlags::BLOCK_MEM),
        (policy.block_maps, ScopeFlags::BLOCK_MAPS),
        (policy.block_ptrace, ScopeFlags::BLOCK_PTRACE),
        (policy.allow_self_read, ScopeFlags::SELF_READ),
        (policy.audit_all, ScopeFlags::AUDIT_ALL),
        (!policy.kernel_binary_filter, ScopeFlags::ALL_EXECS),
        (policy.on_failure == OnFailure::Allow, ScopeFlags::FAIL_OPEN),
        (is_started_from_outside(), ScopeFlags::POD),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .collect()
}
