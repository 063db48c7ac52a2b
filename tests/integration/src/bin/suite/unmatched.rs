//! Bindings that do nothing are told of: their program ran before, or their path is nowhere.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::asked_for_token;
use kernelseal_integration::process::{Running, spawn};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "unmatched::a_program_that_ran_before_is_told_of",
            a_program_that_ran_before,
        )
        .test(
            "unmatched::a_path_that_is_nowhere_is_told_of",
            a_path_that_is_nowhere,
        )
}

/// How a running program is told of.
fn told(program: &Running) -> String {
    format!("runs already, as process {},", program.pid())
}

fn a_program_that_ran_before() -> Result<()> {
    let folder = Scratch::new()?;
    let one = folder.probe("probe-static", "ran-one")?;
    let two = folder.probe("probe-static", "ran-two")?;
    let start = |program| spawn(asked_for_token(program).args(["--sleep", "600"]));
    let before = start(&one)?;
    let config = folder.file("config.yaml", Config::token_for("ran-one").to_string())?;
    let mut agent = Agent::start_with(Agent::command(&[]), &config)?.readied()?;
    agent.wait_for_log(&told(&before), SOON)?;

    // After a reload the same of what it names newly. What was started under its eyes has its secrets.
    let (sealed, unwatched) = (start(&one)?, start(&two)?);
    agent.event("SEALED", sealed.pid())?;
    let both = Config::token_for("ran-one")
        .and_seal("ran-two")
        .value("TOKEN", "hunter2");
    fs::write(&config, both.to_string())?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log(&told(&unwatched), SOON)?;
    let log = agent.log().join("\n");
    ensure!(!log.contains(&told(&sealed)), "{log}");
    Ok(())
}

fn a_path_that_is_nowhere() -> Result<()> {
    let folder = Scratch::new()?;
    let there = folder.probe("probe-static", "there")?;
    let there = there.display().to_string();
    let config = Config::token_for("/opt/nowhere/app").and_seal(&there);
    let config = config.value("TOKEN", "hunter2");
    let mut agent = Agent::run(&config)?;
    agent.wait_for_log("has /opt/nowhere/app in its root", SOON)?;
    ensure!(
        !agent.log_contains(&format!("has {there} in its root")),
        "{there}"
    );
    Ok(())
}
