//! Many starts for a long time, against one agent: nothing grows, nothing is left, everybody gets what is theirs.
//!
//! The load comes first, for `KERNELSEAL_SOAK_SECONDS`, with a line of progress now and then; each test then looks at one side
//! of what it left behind. Rates are asked for, and told, but not demanded: a guest is emulated.

mod kinds;
mod load;
mod machine;
mod run;
mod terminal;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::namespace;
use kernelseal_integration::registry::Registry;

use crate::kinds::Fate;
use crate::machine::Process;
use crate::run::{Measured, Outcome};

/// How long it takes unless told otherwise.
const SECONDS: u64 = 300;
/// What a process may have more in the end than after a third of the time: a page of a heap, or of a stack, that was not
/// touched before. What leaks with each start is far more than that.
const MEMORY_LIMIT_KIB: u64 = 512;
/// The same of all memory in tmpfs files.
const SHMEM_LIMIT_KIB: u64 = 256;
/// The same of the kernel's own objects.
const SLAB_LIMIT_KIB: u64 = 2048;

fn main() -> ExitCode {
    if let Some(status) = namespace::intercept() {
        return status;
    }
    if env::args().any(|argument| argument == "--list") {
        return tests(&Arc::new(None)).main();
    }
    match length().and_then(run::soak) {
        Ok(outcome) => tests(&Arc::new(Some(outcome))).main(),
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn length() -> Result<Duration> {
    let seconds = match env::var("KERNELSEAL_SOAK_SECONDS") {
        Ok(text) => text.parse().context("KERNELSEAL_SOAK_SECONDS")?,
        Err(_) => SECONDS,
    };
    Ok(Duration::from_secs(seconds))
}

/// A look at what the load left.
type Look = fn(&Outcome) -> Result<()>;

fn tests(outcome: &Arc<Option<Outcome>>) -> Registry {
    let looks: [(&str, Look); 8] = [
        ("soak::everybody_got_what_is_theirs", everybody_got_theirs),
        ("soak::every_event_was_told", every_event_was_told),
        ("soak::the_agent_does_not_grow", |outcome| {
            does_not_grow(outcome, |measured| &measured.agent)
        }),
        ("soak::the_guardian_does_not_grow", |outcome| {
            does_not_grow(outcome, |measured| &measured.guardian)
        }),
        ("soak::nobody_stays_stopped", nobody_stays_stopped),
        ("soak::no_secret_file_stays", no_secret_file_stays),
        ("soak::the_kernel_side_is_empty", the_kernel_side_is_empty),
        ("soak::the_kernel_does_not_grow", the_kernel_does_not_grow),
    ];
    looks
        .into_iter()
        .fold(Registry::new(), |registry, (name, look)| {
            let outcome = outcome.clone();
            registry.test(name, move || {
                look(outcome.as_ref().as_ref().context("nothing was run")?)
            })
        })
}

fn everybody_got_theirs(outcome: &Outcome) -> Result<()> {
    let tally = &outcome.tally;
    ensure!(tally.failures() == 0, "{}", tally.complaints());
    for fate in [Fate::Served, Fate::Refused, Fate::LeftAlone, Fate::Killed] {
        ensure!(tally.of(fate) > 0, "no program's fate was to be {fate:?}");
    }
    Ok(())
}

/// Of programs that were killed nobody knows how far they had come; of the others it is known.
fn every_event_was_told(outcome: &Outcome) -> Result<()> {
    let of = |kind: &str| outcome.events.get(kind).copied().unwrap_or_default();
    let (tally, events) = (&outcome.tally, &outcome.events);
    ensure!(of("DROPPED") == 0, "events were lost: {events:?}");
    ensure!(
        outcome.dropped == 0,
        "`kernelseal status` counts {} as dropped",
        outcome.dropped
    );
    let killed = tally.of(Fate::Killed);
    for (kind, fate) in [("SEALED", Fate::Served), ("REFUSED", Fate::Refused)] {
        let least = tally.of(fate);
        ensure!(
            (least..=least + killed).contains(&of(kind)),
            "{least} programs {fate:?} and {killed} killed, but: {events:?}"
        );
    }
    ensure!(
        of("EXITED") == of("SEALED"),
        "not everybody's end was told: {events:?}"
    );
    ensure!(of("BLOCKED") > 0, "nothing was refused: {events:?}");
    ensure!(
        *events == outcome.audited,
        "told: {events:?}, in the audit log: {:?}",
        outcome.audited
    );
    Ok(())
}

fn does_not_grow(outcome: &Outcome, of: impl Fn(&Measured) -> &Process) -> Result<()> {
    let (before, after) = (of(&outcome.warm), of(&outcome.end));
    println!("{before:?} became {after:?}");
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    ensure!(
        grown <= MEMORY_LIMIT_KIB,
        "its memory grew by {grown} KiB, {MEMORY_LIMIT_KIB} are allowed"
    );
    ensure!(
        after.descriptors <= before.descriptors,
        "descriptors stay open"
    );
    ensure!(after.threads <= before.threads, "threads stay");
    Ok(())
}

fn nobody_stays_stopped(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.stopped.is_empty(), "{:?}", outcome.stopped);
    ensure!(
        (outcome.sealed, outcome.held) == (0, 0),
        "`kernelseal status` counts {} sealed and {} held",
        outcome.sealed,
        outcome.held
    );
    Ok(())
}

fn no_secret_file_stays(outcome: &Outcome) -> Result<()> {
    let places = &outcome.secret_places;
    ensure!(places.is_empty(), "{}", places.join("\n"));
    let (before, after) = (&outcome.begin.kernel, &outcome.end.kernel);
    ensure!(
        after.devices == before.devices,
        "file systems were left behind: the sum of the lowest free device numbers was {} and is {}",
        before.devices,
        after.devices
    );
    let grown = after.shmem_kib.saturating_sub(before.shmem_kib);
    ensure!(
        grown <= SHMEM_LIMIT_KIB,
        "{grown} KiB more are in tmpfs files, {SHMEM_LIMIT_KIB} are allowed"
    );
    Ok(())
}

fn the_kernel_side_is_empty(outcome: &Outcome) -> Result<()> {
    let leftovers = &outcome.leftovers;
    ensure!(leftovers.is_empty(), "{}", leftovers.join("\n"));
    ensure!(
        outcome.cleanup.is_none(),
        "`kernelseal cleanup`: {:?}",
        outcome.cleanup
    );
    Ok(())
}

fn the_kernel_does_not_grow(outcome: &Outcome) -> Result<()> {
    let (before, after) = (&outcome.warm.kernel, &outcome.end.kernel);
    let grown = after.slab_kib.saturating_sub(before.slab_kib);
    ensure!(
        grown <= SLAB_LIMIT_KIB,
        "its objects take {grown} KiB more, {SLAB_LIMIT_KIB} are allowed; {}",
        after.grown_since(before)
    );
    Ok(())
}
