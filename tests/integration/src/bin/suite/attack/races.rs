//! The attacker is there before the seal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;

use super::scene::{FILE, config, kernelseal, wait_until_ready};
use super::{backwards, lines};

const LIMIT: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_secs(30);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test(
            "attack::opened_before_the_exec",
            LIMIT,
            opened_before_the_exec,
        )
        .slow_test(
            "attack::used_from_before_the_exec",
            LIMIT,
            used_from_before_the_exec,
        )
        .slow_test("attack::opened_amid_the_exec", LIMIT, opened_amid_the_exec)
        .slow_test(
            "attack::opened_as_the_child_is_born",
            LIMIT,
            opened_as_the_child_is_born,
        )
}

fn agent() -> Result<Agent> {
    let mut agent = Agent::start_as(
        Place::Machine.command(kernelseal())?,
        &config("mode: enforce, blockMaps: true"),
    )?;
    wait_until_ready(&mut agent)?;
    Ok(agent)
}

/// Descriptors of files and folders from before the exec show nothing of the new program.
fn opened_before_the_exec() -> Result<()> {
    let _agent = agent()?;
    let mut command = probe::command("attack")?;
    command
        .args(["before", "0", &backwards()])
        .arg(probe::path("probe-static")?);
    let found = lines(command.args(["--env", FILE, "--sleep", "60"]))?;
    ensure!(found.len() == 24, "{} ways were tried", found.len());
    for line in &found {
        ensure!(line["leaked"] == false, "{line}");
        let name = line["vector"].as_str().context("no name")?;
        if name.contains("dirfd") {
            ensure!(line["errno"] == libc::EPERM, "{line}");
        }
    }
    Ok(())
}

/// What may be opened before the exec may not be used after it.
fn used_from_before_the_exec() -> Result<()> {
    let mut agent = agent()?;
    let mut command = probe::command("attack")?;
    command
        .args(["used", "0", &backwards()])
        .arg(probe::path("probe-static")?);
    let found = lines(command.args(["--env", FILE, "--sleep", "60"]))?;
    ensure!(found.len() == 5, "{} ways were tried", found.len());
    for line in &found {
        ensure!(line["errno"] == libc::EPERM, "{line}");
        let name = line["vector"].as_str().context("no name")?;
        let access = name.trim_start_matches("used:").to_owned();
        agent.wait_for(
            |event| event["type"] == "BLOCKED" && event["access"] == access.as_str(),
            SOON,
        )?;
    }
    Ok(())
}

/// Whoever opens `mem` at any moment of the exec holds either the old memory or nothing.
fn opened_amid_the_exec() -> Result<()> {
    let _agent = agent()?;
    let mut command = probe::command("attack")?;
    command
        .args(["race-exec", "150", &backwards()])
        .arg(probe::path("probe-static")?);
    let found = lines(command.args(["--env", FILE, "--sleep", "60"]))?;
    ensure!(found.len() == 1 && found[0]["leaked"] == false, "{found:?}");
    ensure!(found[0]["errno"] == libc::EPERM, "{found:?}");
    Ok(())
}

/// A child is sealed before anybody can find it.
fn opened_as_the_child_is_born() -> Result<()> {
    let _agent = agent()?;
    let mut forker = spawn(probe::command("forker")?.arg(FILE))?;
    let report = forker.json(SOON)?;
    ensure!(report["found"] == true, "{report}");
    let mut command = probe::command("attack")?;
    let found =
        lines(command.args(["race-fork", &report["pid"].to_string(), &backwards(), "800"]))?;
    // (An open may succeed: `mem` of a child that has ended already is open to everybody, and empty.)
    ensure!(found.len() == 1 && found[0]["leaked"] == false, "{found:?}");
    Ok(())
}
