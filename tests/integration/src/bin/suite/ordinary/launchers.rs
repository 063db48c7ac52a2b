//! What starts programs for others, while the agent is paused again and again; and cron, which takes a minute.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;

use super::case::{LIMIT, perform};

const SCRIPT: &str = include_str!("scripts/launchers.sh");

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "ordinary::launchers_with_a_slow_agent",
            LIMIT,
            launchers_with_a_slow_agent,
        )
        .slow_test("ordinary::cron", LIMIT, cron)
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("launched").policy("holdTimeout", "1m"))
}

/// Nobody hangs, and everybody has his secrets and has noticed nothing.
fn launchers_with_a_slow_agent() -> Result<()> {
    const TIMES: usize = 6;
    let agent = agent()?;
    let is_done = AtomicBool::new(false);
    let text = thread::scope(|scope| {
        let script = scope.spawn(|| {
            let text = perform(&format!("TIMES={TIMES}\n{SCRIPT}"));
            is_done.store(true, Ordering::Relaxed);
            text
        });
        while !is_done.load(Ordering::Relaxed) {
            agent.signal(Signal::SIGSTOP)?;
            thread::sleep(Duration::from_secs(1));
            agent.signal(Signal::SIGCONT)?;
            thread::sleep(Duration::from_millis(300));
        }
        script.join().expect("the script's thread does not panic")
    })?;
    let starts = text.matches("variable: hunter2").count();
    ensure!(starts == 6 * TIMES, "{starts} starts:\n{text}");
    for through in ["su", "runuser", "nsenter", "sudo"] {
        ensure!(text.contains(&format!("{through} is through")), "{text}");
    }
    ensure!(!text.contains("status"), "{text}");
    for heard in ["perl", "python"] {
        ensure!(
            text.contains(&format!("{heard} heard of {TIMES}\n")),
            "{text}"
        );
    }
    Ok(())
}

fn cron() -> Result<()> {
    let _agent = agent()?;
    let text = perform(&format!("TIMES=1\nCRON=yes\n{SCRIPT}"))?;
    let starts = text.matches("variable: hunter2").count();
    ensure!(starts == 7 && text.contains("cron is through"), "{text}");
    Ok(())
}
