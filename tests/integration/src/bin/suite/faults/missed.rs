//! The kernel side misses an end. Since 7.0 the kernel may skip a program on a tracepoint where another task was preempted in
//! it; here the maps are put back as they would be then.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::pinned::{self, PINS};
use kernelseal_integration::probe::{ensure_both, report};
use kernelseal_integration::process::{Running, run, state, until};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::{Signal, kill};
use sidecar_common::policy::{Scope, ScopeId, Sealed};

use super::{SOON, Started, agent, nobody_is_stopped, target};
use crate::guardian::guardian_of;
use crate::lifecycle::held;

/// What a shell ends with that cannot execute a program.
const NOT_EXECUTABLE: i32 = 126;
/// Bits of a process number (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::a_missed_end_of_an_agent", a_missed_end_of_an_agent)
        .test(
            "faults::a_missed_end_of_what_held",
            a_missed_end_of_what_held,
        )
        .test(
            "faults::a_missed_end_of_a_program",
            a_missed_end_of_a_program,
        )
        .test(
            "faults::a_number_given_away_at_once",
            a_number_given_away_at_once,
        )
}

/// The scope that we are in, and its entry. (Other tests leave others.)
fn scope() -> Result<(ScopeId, Scope)> {
    let id = ScopeId::try_from(fs::metadata("/proc/self/ns/pid")?.ino())?;
    let entry = pinned::hash("SCOPE_LEASES")?.get(&id, 0);
    Ok((id, entry.context("no such scope")?))
}

/// The kernel side says that an agent lives which does not.
fn revive(id: ScopeId, scope: Scope) -> Result<()> {
    let mut scopes = pinned::hash::<ScopeId, Scope>("SCOPE_LEASES")?;
    ensure!(scopes.get(&id, 0)?.agent == 0, "its end was noticed");
    Ok(scopes.insert(id, scope, 0)?)
}

/// The next agent is not kept out by one that is gone.
fn a_missed_end_of_an_agent() -> Result<()> {
    let first = agent()?;
    let (id, before) = scope()?;
    kill(guardian_of(&first)?, Signal::SIGKILL)?;
    first.kill()?;
    revive(id, before)?;
    let _second = agent()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

/// The guardian knows better than the kernel side: it ends what is held.
fn a_missed_end_of_what_held() -> Result<()> {
    let first = agent()?;
    let (id, before) = scope()?;
    let mut all: Vec<Running> = held(&first, 3)?;
    // Nobody looks while the books are locked.
    let books = File::open(PINS)?;
    books.lock()?;
    first.signal(Signal::SIGKILL)?;
    let revived = until("the agent has ended", SOON, || {
        scope().is_ok_and(|(_, now)| now.agent == 0)
    })
    .and_then(|()| revive(id, before));
    books.unlock()?;
    let _dead = first.stop()?;
    revived?;
    for probe in &mut all {
        let status = probe.wait(SOON)?;
        // (one that waits for longer than the kernel side lets it is refused by that: its shell cannot execute it)
        let is_refused = status.signal() == Some(9) || status.code() == Some(NOT_EXECUTABLE);
        ensure!(is_refused, "{status}");
    }
    ensure!(target()?.spawn().is_err(), "no agent, no start");
    nobody_is_stopped()
}

/// A program's end is noticed when the kernel frees the process, and its files go.
fn a_missed_end_of_a_program() -> Result<()> {
    let agent = agent()?;
    let sealed = pinned::hash::<u32, Sealed>("SEALED")?;
    let mut ended = Started(target()?.spawn()?);
    let pid = ended.pid();
    until("it has ended", SOON, || state(pid) == Some('Z'))?;
    let left = sealed.get(&pid, 0).context("its seal is there")?;
    // As if nothing had happened yet.
    let mut ends = pinned::hash::<u64, u8>("ENDED")?;
    ends.remove(&(left.start_ns << PID_BITS | u64::from(pid)))
        .context("its end was dealt with")?;
    let mut trees = pinned::hash::<u64, u64>("TREES")?;
    ensure!(trees.get(&left.seal, 0).is_err(), "its tree has ended");
    trees.insert(left.seal, 1, 0)?;
    ended.0.wait()?;
    until("its tree has ended", SOON, || {
        trees.get(&left.seal, 0).is_err()
    })?;
    until("its seal has gone", SOON, || sealed.get(&pid, 0).is_err())?;
    // (the processes of the test before this one may have been freed no sooner)
    until("no end is noted of what is gone", SOON, || {
        ends.keys().count() == 0
    })?;
    ensure!(agent.stop()?.success());
    Ok(())
}

/// The kernel frees a process a moment after its number can be another's, which may be sealed by then. (Seen where numbers
/// are chosen, on a busy machine.)
fn a_number_given_away_at_once() -> Result<()> {
    let agent = agent()?;
    let mut sealed = pinned::hash::<u32, Sealed>("SEALED")?;
    let mut ended = Started(target()?.spawn()?);
    let pid = ended.pid();
    until("it has ended", SOON, || state(pid) == Some('Z'))?;
    let left = sealed.get(&pid, 0).context("its seal is there")?;
    let life = left.start_ns << PID_BITS | u64::from(pid);
    let ends = pinned::hash::<u64, u8>("ENDED")?;
    ensure!(ends.get(&life, 0).is_ok(), "its end was not dealt with");
    let start_ns = left.start_ns + 1;
    sealed.insert(pid, Sealed { start_ns, ..left }, 0)?;
    ended.0.wait()?;
    until("its end is noted no more", SOON, || {
        ends.get(&life, 0).is_err()
    })?;
    let others = sealed.get(&pid, 0)?;
    ensure!(others.start_ns == start_ns, "the seal of another is gone");
    // (that other process does not end, and is counted)
    ensure!(agent.stop()?.success());
    run(Agent::command(&["cleanup"]).arg("--force"))?;
    Ok(())
}
