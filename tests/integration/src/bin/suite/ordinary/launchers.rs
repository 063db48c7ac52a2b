//! What starts programs for others, none before a terminal, while the agent is paused for a second again and again: nobody
//! hangs, and nobody notices.
//!
//! `KERNELSEAL_LAUNCHES` says how often each starts one; the agent is paused once in ten of them.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::stopped;
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::case::perform_within;

const LAUNCHED: &str = include_str!("scripts/launched.sh");
const LAUNCHERS: &str = include_str!("scripts/launchers.sh");
const CRON: &str = include_str!("scripts/cron.sh");
const SYSTEMD: &str = include_str!("scripts/systemd.sh");
/// Starts of each, unless told.
const TIMES: usize = 6;
/// Pauses in the starts of each.
const PAUSES: usize = 20;
const PAUSE: Duration = Duration::from_secs(1);
/// Starts of `launchers.sh`: by su, runuser, nsenter, sudo, perl and Python.
const LAUNCHERS_WAYS: usize = 6;
/// What a script takes besides its starts.
const BESIDES: Duration = Duration::from_mins(4);
/// What one start takes at most, with its part of a pause.
const START: Duration = Duration::from_secs(6);

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    // (a number that is none is told by the tests)
    let times = times().unwrap_or(TIMES);
    registry
        .slow_test(
            "ordinary::paused_launchers",
            patience(LAUNCHERS_WAYS * times) + BESIDES,
            launchers,
        )
        .slow_test("ordinary::paused_cron", patience(times) + BESIDES, || {
            all_start("cron", CRON, 1, Order::AtOnce).map(drop)
        })
        .slow_test(
            "ordinary::paused_systemd",
            patience(times) + BESIDES,
            || all_start("systemd", SYSTEMD, 1, Order::OneByOne).map(drop),
        )
}

fn times() -> Result<usize> {
    match env::var("KERNELSEAL_LAUNCHES") {
        Ok(text) => text
            .parse()
            .context("KERNELSEAL_LAUNCHES: a number is wanted"),
        Err(_) => Ok(TIMES),
    }
}

fn patience(starts: usize) -> Duration {
    BESIDES + START * u32::try_from(starts).unwrap_or(u32::MAX)
}

/// How a launcher starts its programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OneByOne,
    /// What is sealed while the agent is paused is heard of when all is over, so that fewer pauses fit in.
    AtOnce,
}

/// Runs a script of launchers, so many of which start programs; each of these has its secret, and the agent is paused
/// when so many have been sealed, again and again. Gives what the script printed.
fn all_start(name: &str, script: &str, ways: usize, order: Order) -> Result<String> {
    let times = times()?;
    let between = (times / PAUSES).max(1);
    let mut agent = Agent::run(&Config::token_for("launched").policy("holdTimeout", "4m"))?;
    let is_done = AtomicBool::new(false);
    let mut pauses = 0;
    let text = thread::scope(|scope| -> Result<_> {
        let script = scope.spawn(|| {
            let text = perform_within(
                &format!("TIMES={times}\n{LAUNCHED}{script}"),
                patience(ways * times),
            );
            is_done.store(true, Ordering::Relaxed);
            text
        });
        let mut sealed = 0_usize;
        while !is_done.load(Ordering::Relaxed) {
            let Some(line) = agent.next_line(Duration::from_millis(100))? else {
                continue;
            };
            let event: Value = serde_json::from_str(&line)?;
            ensure!(event["type"] != "REFUSED", "{line}");
            if event["type"] != "SEALED" {
                continue;
            }
            sealed += 1;
            if sealed.is_multiple_of(between) {
                agent.signal(Signal::SIGSTOP)?;
                thread::sleep(PAUSE);
                agent.signal(Signal::SIGCONT)?;
                pauses += 1;
            }
        }
        script.join().expect("the script's thread does not panic")
    })?;
    let starts = text.matches("variable: hunter2").count();
    ensure!(starts == ways * times, "{starts} starts:\n{text}");
    ensure!(text.contains(&format!("{name} is through")), "{text}");
    ensure!(!text.contains("status"), "{text}");
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    println!("{starts} starts by {name}, the agent paused {pauses} times");
    let least = match order {
        // (each of the ways may end before the count is full once more)
        Order::OneByOne => (starts / between).saturating_sub(ways).max(1),
        Order::AtOnce => 1,
    };
    ensure!(
        pauses >= least,
        "the agent was paused {pauses} times of {least}"
    );
    Ok(text)
}

fn launchers() -> Result<()> {
    let times = times()?;
    let text = all_start("sudo", LAUNCHERS, LAUNCHERS_WAYS, Order::OneByOne)?;
    for through in ["su", "runuser", "nsenter"] {
        ensure!(text.contains(&format!("{through} is through")), "{text}");
    }
    for heard in ["perl", "python"] {
        ensure!(
            text.contains(&format!("{heard} heard of {times}\n")),
            "{text}"
        );
    }
    Ok(())
}
