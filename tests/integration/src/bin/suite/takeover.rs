//! A new version of kernelseal beside what an earlier one left: nothing stands open in between.
//!
//! Another version is this one's kernel side under another number.

use std::fs::{self, File};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::namespace::process_one;
use kernelseal_integration::pinned::PINS;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report, staying};
use kernelseal_integration::process::{Running, run, stopped, until};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guardian::guardian_of;
use crate::lifecycle::{cleanup, held};

const SOON: Duration = Duration::from_secs(20);
const OTHER: &str = "/sys/fs/bpf/kernelseal/v1000";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("takeover::of_what_is_sealed", of_what_is_sealed)
        .test("takeover::of_what_is_held", of_what_is_held)
        .test("takeover::of_the_names", of_the_names)
        .test("takeover::of_another_scope", of_another_scope)
        .test("takeover::in_a_pod", in_a_pod)
        .test(
            "takeover::not_from_an_agent_that_lives",
            not_from_the_living,
        )
        .test("takeover::files_of_what_ended", files_of_what_ended)
        .test("takeover::of_an_unknown_shape", of_an_unknown_shape)
        .test("takeover::status_and_cleanup", status_and_cleanup)
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static"))
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// (What this version has pinned stays: to load it takes its time.)
fn only_this_version() -> Result<()> {
    if fs::exists(OTHER)? {
        cleanup()
    } else {
        Ok(())
    }
}

/// What is pinned becomes another version's.
fn age() -> Result<()> {
    let current = fs::read_dir(PINS)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.as_os_str() != OTHER);
    fs::rename(current.expect("an agent has pinned something"), OTHER)?;
    Ok(())
}

fn is_guarded(probe: &Running) -> bool {
    let file = format!("/run/kernelseal/secrets/{}/TOKEN", probe.pid());
    File::open(format!("/proc/{}/environ", probe.pid())).is_err() && File::open(file).is_err()
}

/// Starts and ends an agent until the other version is gone.
fn retired() -> Result<()> {
    for _ in 0..20 {
        ensure!(agent()?.stop()?.success());
        if !fs::exists(OTHER)? {
            return Ok(());
        }
        // A seal goes a moment after its process.
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{OTHER} is still there")
}

fn of_what_is_sealed() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    let (old, _) = staying("probe-static")?;
    age()?;
    ensure!(first.stop()?.success());
    ensure!(is_guarded(&old), "without an agent");
    let second = agent()?;
    ensure!(is_guarded(&old), "under a new version");
    let (new, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    ensure!(is_guarded(&new));
    ensure!(fs::exists(OTHER)?, "it guards a program that lives");
    ensure!(second.stop()?.success());
    ensure!(is_guarded(&old) && is_guarded(&new));
    drop(old);
    retired()?;
    ensure!(is_guarded(&new), "when the old one is gone");
    Ok(())
}

/// Agent and guardian are killed, and the next agent is of another version.
fn of_what_is_held() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    let mut all = held(&first, 3)?;
    kill(guardian_of(&first)?, Signal::SIGKILL)?;
    first.kill()?;
    age()?;
    let mut second = agent()?;
    // None of them starts: the next agent ends it, or the kernel side had waited for one for long enough.
    for probe in &mut all {
        let status = probe.wait(SOON)?;
        ensure!(!status.success() && probe.line(SOON).is_err(), "{status}");
    }
    let pids: Vec<u32> = all.iter().map(Running::pid).collect();
    for event in second.events(Duration::from_secs(1))? {
        let is_theirs = pids.iter().any(|pid| event["pid"] == *pid);
        let reason = event["reason"].as_str().unwrap_or_default();
        ensure!(
            !is_theirs || reason.contains("of another version"),
            "{event}"
        );
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    drop(second);
    retired()
}

/// An agent that was killed leaves its names, and its version refuses them: until they are taken over.
fn of_the_names() -> Result<()> {
    only_this_version()?;
    let config = Config::token_for("probe-static").policy("kernelBinaryFilter", false);
    Agent::run(&config)?.kill()?;
    ensure!(target()?.spawn().is_err(), "no agent, no start");
    age()?;
    ensure!(target()?.spawn().is_err(), "no agent, no start, still");
    let second = agent()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    drop(second);
    retired()
}

/// In another pod an agent was killed, and its version refuses its names: that must outlast us.
fn of_another_scope() -> Result<()> {
    only_this_version()?;
    let pod = Place::pod()?;
    let config = Config::token_for("probe-static").to_string();
    let binary = Agent::command(&[]).get_program().to_owned();
    let first = Agent::start_as(pod.command(binary)?, &config)?.readied()?;
    let inside = process_one(first.pid())?;
    for number in [process_one(inside)?, inside] {
        kill(Pid::from_raw(number.cast_signed()), Signal::SIGKILL)?;
    }
    let _dead = first.stop()?;
    let is_refused = || -> Result<bool> {
        let output = pod.command(probe::path("probe-static")?)?.output()?;
        Ok(!output.status.success() && output.stdout.is_empty())
    };
    ensure!(is_refused()?, "no agent, no start");
    age()?;
    ensure!(agent()?.stop()?.success());
    ensure!(fs::exists(OTHER)?, "it refuses what would start unguarded");
    ensure!(is_refused()?, "no agent, no start, still");
    drop(pod);
    retired()
}

/// In a pod a child of the new agent may not use bpf(2) before the agent is one: it loads by itself.
fn in_a_pod() -> Result<()> {
    only_this_version()?;
    let pod = Place::pod()?;
    let config = Config::token_for("probe-static").to_string();
    let start = || -> Result<Agent> {
        let binary = Agent::command(&[]).get_program().to_owned();
        Agent::start_as(pod.command(binary)?, &config)?.readied()
    };
    let served = || -> Result<Running> {
        let mut command = pod.command(probe::path("probe-static")?)?;
        command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
        let (probe, found) = report(&mut command)?;
        ensure_both(&found, "hunter2")?;
        Ok(probe)
    };
    let first = start()?;
    let old = served()?;
    age()?;
    ensure!(first.stop()?.success());
    let second = start()?;
    let new = served()?;
    ensure!(second.stop()?.success());
    drop((old, new, pod));
    retired()
}

fn not_from_the_living() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    age()?;
    let (_, said) = Agent::expect_failure(&Config::token_for("probe-static").to_string())?;
    ensure!(
        said.contains(&format!("already has an agent: process {}", first.pid())),
        "{said}"
    );
    // And the first goes on.
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    ensure!(first.stop()?.success());
    retired()
}

/// They are still mounted, and guarded, when the last program of the old version has ended.
fn files_of_what_ended() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    let (old, _) = staying("probe-static")?;
    let folder = format!("/run/kernelseal/secrets/{}", old.pid());
    age()?;
    kill(guardian_of(&first)?, Signal::SIGKILL)?;
    first.kill()?;
    drop(old);
    ensure!(fs::read_dir(&folder).is_err(), "guarded");
    retired()?;
    ensure!(!fs::exists(&folder)?, "{folder} is still there");
    Ok(())
}

/// Maps of other sizes: it is left alone, and the new version works beside it.
fn of_an_unknown_shape() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    let (old, _) = staying("probe-static")?;
    ensure!(first.stop()?.success());
    age()?;
    // A map under another's name has another shape.
    fs::remove_file(format!("{OTHER}/map_SEALED"))?;
    fs::rename(format!("{OTHER}/map_VAULTS"), format!("{OTHER}/map_SEALED"))?;
    let mut second = agent()?;
    second.wait_for_log("which this version cannot read", SOON)?;
    ensure!(is_guarded(&old));
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    ensure!(second.stop()?.success());
    ensure!(fs::exists(OTHER)?);
    let plain = Agent::command(&["cleanup"]).output()?;
    ensure!(!plain.status.success(), "what it guards is not known");
    drop(old);
    run(&mut Agent::command(&["cleanup", "--force"]))?;
    ensure!(!fs::exists(PINS)?);
    Ok(())
}

fn status_and_cleanup() -> Result<()> {
    only_this_version()?;
    let first = agent()?;
    let (old, _) = staying("probe-static")?;
    age()?;
    ensure!(first.stop()?.success());
    let second = agent()?;
    let said = run(&mut Agent::command(&["status"]))?;
    ensure!(said.matches("kernel side at").count() == 2, "{said}");
    ensure!(second.stop()?.success());
    let refused = Agent::command(&["cleanup"]).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("1 processes are sealed"),
        "{said}"
    );
    let number = Pid::from_raw(old.pid().cast_signed());
    drop(old);
    until("cleanup is possible", SOON, || {
        kill(number, None).is_err() && run(&mut Agent::command(&["cleanup"])).is_ok()
    })?;
    ensure!(!fs::exists(PINS)?);
    Ok(())
}
