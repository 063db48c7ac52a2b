//! Agents come and go: what they sealed stays sealed, what they held does not stay stopped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned::PINS;
use kernelseal_integration::probe::{
    self, asked_for_token, ensure_both, ensure_none, report, staying,
};
use kernelseal_integration::process::{
    self, Running, by_a_shell, run, state, stopped, until, waits_for_agent,
};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// A user who may look at nothing.
const NOBODY: u32 = 65534;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "lifecycle::ending_leaves_nobody_stopped",
            ending_leaves_nobody_stopped,
        )
        .test("lifecycle::sealed_stays_sealed", sealed_stays_sealed)
        .test("lifecycle::after_a_kill", after_a_kill)
        .test("lifecycle::no_agent_no_start", no_agent_no_start)
        .test("lifecycle::no_agent_and_allow", no_agent_and_allow)
        .test(
            "lifecycle::after_the_end_programs_start_freely",
            after_the_end_programs_start_freely,
        )
        .test(
            "lifecycle::two_agents_for_one_scope",
            two_agents_for_one_scope,
        )
        .test("lifecycle::a_lost_link_is_not_overlooked", || {
            without("link_file_open")
        })
        .test("lifecycle::a_lost_map_is_not_overlooked", || {
            without("map_HELD")
        })
        .test(
            "lifecycle::a_loader_that_died_is_no_matter",
            a_loader_that_died_is_no_matter,
        )
        .test("lifecycle::no_bpf_file_system", no_bpf_file_system)
        .test("lifecycle::check", check)
        .test("lifecycle::validate", validate)
        .test("lifecycle::status_and_cleanup", status_and_cleanup)
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static"))
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

fn is_open(probe: &Running) -> bool {
    File::open(format!("/proc/{}/environ", probe.pid())).is_ok()
}

/// Stops the agent and starts programs that it cannot release.
pub fn held(agent: &Agent, number: usize) -> Result<Vec<Running>> {
    agent.signal(Signal::SIGSTOP)?;
    until("the agent stops", SOON, || state(agent.pid()) == Some('T'))?;
    let all =
        (0..number).map(|_| process::spawn(&mut by_a_shell(target()?.args(["--sleep", "600"]))));
    let all = all.collect::<Result<Vec<_>>>()?;
    for probe in &all {
        until("it is held", SOON, || waits_for_agent(probe.pid()))?;
    }
    Ok(all)
}

fn ending_leaves_nobody_stopped() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))?;
    let mut all = held(&agent, 20)?;
    // `stop` asks it to end, and then lets it go on.
    let status = agent.stop()?;
    ensure!(status.success(), "{status}");
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    for probe in &mut all {
        ensure_both(&probe.json(SOON)?, "hunter2")?;
    }
    Ok(())
}

fn sealed_stays_sealed() -> Result<()> {
    let first = agent()?;
    let (probe, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    let file = format!("/run/kernelseal/secrets/{}/TOKEN", probe.pid());
    ensure!(!is_open(&probe) && File::open(&file).is_err());
    ensure!(first.stop()?.success());
    ensure!(
        !is_open(&probe) && File::open(&file).is_err(),
        "without an agent"
    );
    let mut second = agent()?;
    ensure!(
        !is_open(&probe) && File::open(&file).is_err(),
        "with another agent"
    );
    second.wait_for(
        |event| event["type"] == "BLOCKED" && event["target_pid"] == probe.pid(),
        SOON,
    )?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

fn after_a_kill() -> Result<()> {
    let first = agent()?;
    let (probe, _) = staying("probe-static")?;
    first.kill()?;
    ensure!(!is_open(&probe), "without an agent");
    let _second = agent()?;
    ensure!(!is_open(&probe), "with another agent");
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

/// There was an agent, it is dead: nobody would release the program, so it is not held but refused.
fn no_agent_no_start() -> Result<()> {
    agent()?.kill()?;
    let error = target()?.output().expect_err("it started");
    ensure!(error.raw_os_error() == Some(libc::EPERM), "{error}");
    agent().map(drop)
}

fn no_agent_and_allow() -> Result<()> {
    let config = Config::token_for("probe-static").policy("onFailure", "allow");
    Agent::run(&config)?.kill()?;
    ensure_none(&report(&mut target()?)?.1)?;
    agent().map(drop)
}

fn after_the_end_programs_start_freely() -> Result<()> {
    ensure!(agent()?.stop()?.success());
    ensure_none(&report(&mut target()?)?.1)
}

fn two_agents_for_one_scope() -> Result<()> {
    const PORT: u16 = 9471;
    let config = Config::token_for("probe-static")
        .monitoring("enabled", true)
        .monitoring("metricsPort", PORT);
    let first = Agent::run(&config)?;
    let (_, said) = Agent::expect_failure(&config.to_string())?;
    ensure!(said.contains(&format!("process {}", first.pid())), "{said}");
    // The port that the first one has is not what it is told of.
    ensure!(!said.contains(&PORT.to_string()), "{said}");
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

/// Nothing is pinned from here on.
pub fn cleanup() -> Result<()> {
    if fs::exists(PINS)? {
        run(&mut Agent::command(&["cleanup", "--force"]))?;
    }
    Ok(())
}

/// A pin of the shared kernel side is taken away: the next agent must say so or put it right.
fn without(name: &str) -> Result<()> {
    drop(agent()?);
    let versions = fs::read_dir(PINS)?.collect::<Result<Vec<_>, _>>()?;
    let pins = versions.first().context("no pins")?.path();
    fs::remove_file(pins.join(name))?;
    let mut agent = Agent::start(&Config::token_for("probe-static").to_string())?;
    let verdict = if agent.ready(SOON).is_ok() {
        let (probe, _) = staying("probe-static")?;
        ensure!(!is_open(&probe), "it started half-attached");
        drop(probe);
        agent.stop()?.success()
    } else {
        let (_, said) = agent.failure()?;
        said.contains(name) || said.contains(name.trim_start_matches("map_"))
    };
    cleanup()?;
    ensure!(verdict, "the error does not name what is missing");
    self::agent().map(drop)
}

fn a_loader_that_died_is_no_matter() -> Result<()> {
    drop(agent()?);
    let versions = fs::read_dir(PINS)?.collect::<Result<Vec<_>, _>>()?;
    let pins = versions.first().context("no pins")?.path();
    let mut half = pins.clone().into_os_string();
    half.push("_loading");
    fs::rename(&pins, &half)?;
    fs::remove_file(std::path::Path::new(&half).join("link_file_open"))?;
    let _agent = agent()?;
    let (probe, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    ensure!(!is_open(&probe));
    Ok(())
}

fn no_bpf_file_system() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "umount -l /sys/fs/bpf; exec \"$@\"", "sh"]);
    command.arg(Agent::command(&[]).get_program());
    let agent = Agent::start_as(command, &Config::token_for("probe-static").to_string())?;
    let (_, said) = agent.failure()?;
    ensure!(said.contains("mount -t bpf bpf /sys/fs/bpf"), "{said}");
    Ok(())
}

fn check() -> Result<()> {
    let text = run(&mut Agent::command(&["check"]))?;
    ensure!(
        !text.contains("FAIL") && text.contains("can enforce"),
        "{text}"
    );
    ensure!(text.lines().filter(|line| line.starts_with("ok")).count() >= 5);
    // What is weaker on this kernel is said.
    let is_old = crate::machine::kernel_version()? < (6, 4);
    ensure!(
        text.contains("note this kernel's tmpfs") == is_old,
        "{text}"
    );
    let mut unprivileged = Agent::command(&["check"]);
    std::os::unix::process::CommandExt::uid(&mut unprivileged, 1000);
    let output = unprivileged.output()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("FAIL privileges"), "{text}");
    Ok(())
}

fn validate() -> Result<()> {
    for entry in fs::read_dir("/usr/share/kernelseal/examples")? {
        let path = entry?.path();
        run(Agent::command(&["validate"]).arg(&path))?;
    }
    let scratch = kernelseal_integration::scratch::Scratch::new()?;
    let wrong = scratch.file(
        "wrong.yaml",
        "version: v1\npolicy:\n  blockEnvirons: true\n",
    )?;
    let output = Agent::command(&["validate"]).arg(&wrong).output()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains("wrong.yaml:3:3") && said.contains("blockEnviron"),
        "{said}"
    );
    // Nothing starts on it.
    let (_, said) = Agent::expect_failure(&fs::read_to_string(&wrong)?)?;
    ensure!(said.contains("config.yaml:3:3"), "{said}");
    Ok(())
}

fn status_and_cleanup() -> Result<()> {
    cleanup()?;
    let status = Agent::command(&["status"]).output()?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(text.contains("not loaded"), "{text}");
    ensure!(status.status.code() == Some(1), "{status:?}");
    let agent = agent()?;
    let (probe, _) = staying("probe-static")?;
    let text = run(&mut Agent::command(&["status"]))?;
    let scope = fs::read_link("/proc/self/ns/pid")?;
    let line = text
        .lines()
        .find(|line| line.starts_with(&*scope.to_string_lossy()))
        .with_context(|| text.clone())?;
    let words: Vec<_> = line.split_whitespace().collect();
    ensure!(
        words[1] == agent.pid().to_string() && words[2..] == ["enforce", "1", "0", "0"],
        "{text}"
    );
    let is_refused = || -> Result<bool> {
        let output = Agent::command(&["cleanup"]).output()?;
        Ok(!output.status.success())
    };
    ensure!(is_refused()?, "cleanup with an agent at work");
    // Nobody but root is told, and not that nothing is there.
    let mut anybody = Agent::command(&["status"]);
    let asked = anybody.uid(NOBODY).output()?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(said.contains("as root"), "{asked:?}");
    ensure!(asked.status.code() == Some(1), "{asked:?}");
    ensure!(agent.stop()?.success());
    let status = Agent::command(&["status"]).output()?;
    ensure!(status.status.code() == Some(1), "{status:?}");
    ensure!(is_refused()?, "cleanup with a sealed program");
    drop(probe);
    // The seal goes a moment after the process.
    until("cleanup is possible", SOON, || {
        is_refused().is_ok_and(|refused| !refused)
    })?;
    ensure!(!fs::exists(PINS)?);
    Ok(())
}
