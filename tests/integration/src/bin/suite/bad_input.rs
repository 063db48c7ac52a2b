//! What is odd or too large: it is delivered all the same, or refused with the reason.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("bad_input::an_empty_value", an_empty_value)
        .test(
            "bad_input::large_and_binary_as_a_file",
            large_and_binary_as_a_file,
        )
        .test(
            "bad_input::large_and_binary_as_a_variable",
            large_and_binary_as_a_variable,
        )
        .test(
            "bad_input::too_long_for_a_variable",
            too_long_for_a_variable,
        )
        .test("bad_input::longest_variable", longest_variable)
        .test(
            "bad_input::arguments_near_the_limit",
            arguments_near_the_limit,
        )
        .test("bad_input::not_a_variables_name", not_a_variables_name)
        .test("bad_input::a_setuid_program", a_setuid_program)
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// Starts the probe, which must be refused, and gives the reason.
fn refused(agent: &mut Agent, command: &mut Command) -> Result<String> {
    let mut probe = process::spawn(command)?;
    if let Ok(line) = probe.line(SOON) {
        bail!("it started: {line:.200}");
    }
    agent.refusal(probe.pid())
}

fn an_empty_value() -> Result<()> {
    let _agent = Agent::run(&Config::seal("probe-static").value("TOKEN", ""))?;
    ensure_both(&report(&mut target()?)?.1, "")
}

/// 1 MiB with every byte in it.
fn large(scratch: &Scratch) -> Result<(Config, String)> {
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let path = scratch.file("large", &bytes)?;
    let config =
        Config::seal("probe-static").secret("TOKEN", json!({"fileRef": path.to_string_lossy()}));
    Ok((config, bytes.into_iter().map(char::from).collect()))
}

/// Whole as a file; that the variable was left out is told.
fn large_and_binary_as_a_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let (config, text) = large(&scratch)?;
    let mut agent = Agent::run(&config)?;
    let (probe, found) = report(&mut target()?)?;
    ensure!(found["files"]["TOKEN"]["content"] == text.as_str());
    ensure!(found["env"]["TOKEN"].is_null());
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["env"] == json!([]), "{event}");
    ensure!(
        event["note"]
            .as_str()
            .is_some_and(|note| note.contains("NUL")),
        "{event}"
    );
    Ok(())
}

fn large_and_binary_as_a_variable() -> Result<()> {
    let scratch = Scratch::new()?;
    let (config, _) = large(&scratch)?;
    let mut agent = Agent::run(&config.delivery(&["env"]))?;
    let reason = refused(&mut agent, &mut target()?)?;
    ensure!(
        reason.contains("TOKEN") && reason.contains("NUL"),
        "{reason}"
    );
    Ok(())
}

/// With its name, `=` and its NUL a variable may have 128 KiB.
const LONGEST: usize = (128 << 10) - "TOKEN=\0".len();

fn of_length(length: usize) -> Config {
    Config::seal("probe-static").value("TOKEN", &"v".repeat(length))
}

fn longest_variable() -> Result<()> {
    let _agent = Agent::run(&of_length(LONGEST))?;
    ensure_both(&report(&mut target()?)?.1, &"v".repeat(LONGEST))
}

fn too_long_for_a_variable() -> Result<()> {
    let mut agent = Agent::run(&of_length(LONGEST + 1).delivery(&["env"]))?;
    let reason = refused(&mut agent, &mut target()?)?;
    ensure!(reason.contains("E2BIG"), "{reason}");
    Ok(())
}

/// The kernel takes them, but not with our 100 KiB on top.
fn arguments_near_the_limit() -> Result<()> {
    let mut agent = Agent::run(&of_length(100 << 10).delivery(&["env"]))?;
    let mut command = target()?;
    let argument = "a".repeat((128 << 10) - 1);
    for _ in 0..7 {
        command.args(["--env", &argument, "--file", &argument]);
    }
    // 14 arguments of 128 KiB and 1 of 100 KiB, of 2 MiB, and pointers.
    ensure!(report(command.args(["--env", &"a".repeat(100 << 10)])).is_ok());
    let reason = refused(&mut agent, command.args(["--env", &argument]))?;
    ensure!(reason.contains("E2BIG"), "{reason}");
    // The agent lives, and so do smaller programs.
    ensure!(report(&mut target()?)?.1["env"]["TOKEN"].is_string());
    Ok(())
}

fn not_a_variables_name() -> Result<()> {
    for name in ["1TOKEN", "TO KEN", "TO=KEN", "", "../TOKEN"] {
        let config = Config::seal("probe-static").value(name, "hunter2");
        let (_, said) = Agent::expect_failure(&config.to_string())?;
        ensure!(said.contains("config.yaml:"), "{name}: {said}");
        ensure!(!said.contains("hunter2"), "{name}: {said}");
    }
    Ok(())
}

/// The files are its effective user's: who started it has no use for them.
fn a_setuid_program() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = scratch.probe("probe-static", "setuid")?;
    fs::set_permissions(&program, Permissions::from_mode(0o4755))?;
    let mut agent = Agent::run(&Config::token_for("setuid"))?;
    let mut command = asked_for_token(&program);
    command.args(["--sleep", "600"]).uid(1000).gid(1000);
    let (probe, found) = report(&mut command)?;
    ensure_both(&found, "hunter2")?;
    ensure!(agent.event("SEALED", probe.pid())?["uid"] == 0);
    let file = format!("/run/kernelseal/secrets/{}/TOKEN", probe.pid());
    let data = fs::metadata(&file)?;
    ensure!((data.uid(), data.mode() & 0o777) == (0, 0o400));
    Ok(())
}
