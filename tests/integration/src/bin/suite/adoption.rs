//! A new agent takes over what the one before it sealed: it tells of its end, and takes its files away.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::namespace::process_one;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report, staying};
use kernelseal_integration::process::{Running, run, state, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::observe::{get, serving};

const SOON: Duration = Duration::from_secs(20);
/// For what must not happen.
const A_WHILE: Duration = Duration::from_millis(300);
/// An agent wipes files two seconds after it has taken them away.
const WIPED: Duration = Duration::from_secs(4);
const PLACE: &str = "/run/kernelseal/secrets";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("adoption::after_an_orderly_end", || {
            a_program_outlives_its_agent(|agent| agent.stop().map(drop))
        })
        .test("adoption::after_a_kill", || {
            a_program_outlives_its_agent(Agent::kill)
        })
        .test(
            "adoption::ended_while_no_agent_was_there",
            ended_while_no_agent_was_there,
        )
        .test("adoption::what_ended_is_wiped", what_ended_is_wiped)
        .test(
            "adoption::children_without_their_parent",
            children_without_their_parent,
        )
        .test(
            "adoption::cleanup_takes_files_along",
            cleanup_takes_files_along,
        )
        .test("adoption::in_a_pod", in_a_pod)
        .test("adoption::with_a_root_of_its_own", with_a_root_of_its_own)
}

fn folder(probe: &Running) -> String {
    format!("{PLACE}/{}", probe.pid())
}

/// Whether a process sees the folder mounted.
fn is_mounted(by: u32, folder: &str) -> Result<bool> {
    let mounts = fs::read_to_string(format!("/proc/{by}/mounts"))?;
    Ok(mounts.contains(&format!("{folder} ")))
}

fn until_gone(by: u32, folder: &str) -> Result<()> {
    until("its files go", SOON, || {
        is_mounted(by, folder).is_ok_and(|is| !is)
    })
}

fn sealed_processes() -> Result<String> {
    let (_, body) = get("/metrics")?;
    body.lines()
        .find_map(|line| line.strip_prefix("kernelseal_sealed_processes "))
        .map(str::to_owned)
        .with_context(|| body.clone())
}

fn a_program_outlives_its_agent(end: fn(Agent) -> Result<()>) -> Result<()> {
    let first = Agent::run(&serving())?;
    let (probe, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    let (pid, folder) = (probe.pid(), folder(&probe));
    end(first)?;
    let mut second = Agent::run(&serving())?;
    // The delivering thread has adopted when it delivers.
    let (other, _) = staying("probe-static")?;
    second.event("SEALED", other.pid())?;
    ensure!(is_mounted(std::process::id(), &folder)?);
    ensure!(sealed_processes()? == "2", "{}", sealed_processes()?);
    drop(probe);
    let event = second.event("EXITED", pid)?;
    ensure!(
        event["signal"] == 9 && event["process"] == "probe-static",
        "{event}"
    );
    until_gone(std::process::id(), &folder)?;
    until("its folder goes", SOON, || !Path::new(&folder).exists())?;
    ensure!(sealed_processes()? == "1", "{}", sealed_processes()?);
    ensure!(is_mounted(std::process::id(), &self::folder(&other))?);
    Ok(())
}

fn ended_while_no_agent_was_there() -> Result<()> {
    let first = Agent::run(&serving())?;
    let (gone, _) = staying("probe-static")?;
    let (stays, _) = staying("probe-static")?;
    let folders = [folder(&gone), folder(&stays)];
    first.kill()?;
    drop(gone);
    ensure!(is_mounted(std::process::id(), &folders[0])?);
    let _second = Agent::run(&serving())?;
    until_gone(std::process::id(), &folders[0])?;
    until("its folder goes", SOON, || !Path::new(&folders[0]).exists())?;
    ensure!(is_mounted(std::process::id(), &folders[1])?);
    ensure!(sealed_processes()? == "1", "{}", sealed_processes()?);
    Ok(())
}

/// With sendfile(2) a pipe holds the file's own pages, and shows what became of them.
fn what_ended_is_wiped() -> Result<()> {
    // Before 5.12 it copies them.
    if fs::read_to_string("/proc/sys/kernel/osrelease")?.starts_with("5.10.") {
        return Ok(());
    }
    let scratch = Scratch::new()?;
    let script = "#!/bin/sh\ncat $KERNELSEAL_SECRETS_DIR/TOKEN\nexec sleep 600\n";
    let config = Config::token_for("app.sh");
    let first = Agent::run(&config)?;
    let mut command = Command::new(scratch.program("app.sh", script)?);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let name = format!("/proc/{}/comm", child.id());
    until("it has sent its secret", SOON, || {
        fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n")
    })?;
    first.kill()?;
    child.kill()?;
    child.wait()?;
    let _second = Agent::run(&config)?;
    thread::sleep(WIPED);
    let mut found = Vec::new();
    let mut pipe = child.stdout.take().context("no pipe")?;
    pipe.read_to_end(&mut found)?;
    ensure!(found == [0; 7], "{found:?}");
    Ok(())
}

fn children_without_their_parent() -> Result<()> {
    let first = Agent::run(&serving())?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let (mut probe, _) = report(command.args(["--fork", "--sleep", "600"]))?;
    let numbers = probe.json(SOON)?;
    let child = u32::try_from(numbers["child"].as_u64().context("no child")?)?;
    let folder = folder(&probe);
    first.kill()?;
    probe.signal(Signal::SIGKILL)?;
    probe.wait(SOON)?;
    let mut second = Agent::run(&serving())?;
    let (other, _) = staying("probe-static")?;
    second.event("SEALED", other.pid())?;
    ensure!(is_mounted(std::process::id(), &folder)?);
    ensure!(sealed_processes()? == "1", "{}", sealed_processes()?);
    kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL)?;
    until("the child goes", SOON, || {
        matches!(state(child), None | Some('Z'))
    })?;
    until_gone(std::process::id(), &folder)?;
    ensure!(sealed_processes()? == "1", "{}", sealed_processes()?);
    let events = second.events(A_WHILE)?;
    ensure!(!events.iter().any(|event| event["type"] == "EXITED"));
    Ok(())
}

/// Nobody would know of them any more.
fn cleanup_takes_files_along() -> Result<()> {
    let agent = Agent::run(&serving())?;
    let (probe, _) = staying("probe-static")?;
    let folder = folder(&probe);
    agent.kill()?;
    drop(probe);
    ensure!(is_mounted(std::process::id(), &folder)?);
    until("cleanup is possible", SOON, || {
        run(&mut Agent::command(&["cleanup"])).is_ok()
    })?;
    ensure!(!is_mounted(std::process::id(), &folder)?);
    ensure!(!Path::new(&folder).exists());
    Ok(())
}

/// The agent's numbers are not the kernel's, and the programs' mounts are not the agent's.
fn in_a_pod() -> Result<()> {
    let place = Place::pod()?;
    let agent = || -> Result<Agent> {
        let binary = Agent::command(&[]).get_program().to_owned();
        let config = Config::token_for("probe-static").to_string();
        Agent::start_as(place.command(binary)?, &config)?.readied()
    };
    let target = |wrapper: &str| -> Result<(Running, u64)> {
        let mut command = place.command("unshare")?;
        command.env_clear().env("PATH", "/usr/bin:/bin");
        // The shell keeps the mount namespace when the probe has gone.
        command.args(["-m", "sh", "-c", wrapper]);
        command.arg(probe::path("probe-static")?);
        let (target, found) = report(&mut command)?;
        ensure_both(&found, "hunter2")?;
        Ok((target, found["pid"].as_u64().context("no number")?))
    };
    let wrapper = "\"$0\" --env TOKEN --file TOKEN --sleep 600; sleep 600";
    let first = agent()?;
    let (ends_early, early) = target(wrapper)?;
    let (ends_late, late) = target(wrapper)?;
    let killed = process_one(first.pid())?;
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL)?;
    until("the agent is gone", SOON, || state(killed).is_none())?;
    first.kill()?;
    let signal = |number: u64| -> Result<()> {
        run(place.command("kill")?.args(["-9", &number.to_string()])).map(drop)
    };
    let shell = |target: &Running| process_one(target.pid());
    signal(early)?;
    let folders = [early, late].map(|number| format!("{PLACE}/{number}"));
    ensure!(is_mounted(shell(&ends_early)?, &folders[0])?);

    let mut second = agent()?;
    until_gone(shell(&ends_early)?, &folders[0])?;
    ensure!(is_mounted(shell(&ends_late)?, &folders[1])?);
    signal(late)?;
    let event = second.event("EXITED", u32::try_from(late)?)?;
    ensure!(event["process"] == "probe-static", "{event}");
    until_gone(shell(&ends_late)?, &folders[1])
}

/// The folder is where the program's root is, and is seen elsewhere by everybody else.
fn with_a_root_of_its_own() -> Result<()> {
    let root = Scratch::new()?;
    root.probe("probe-static", "probe-static")?;
    let first = Agent::run(&serving())?;
    let mut command = Command::new("chroot");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg(root.path()).arg("/probe-static");
    command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
    let (probe, found) = report(&mut command)?;
    ensure_both(&found, "hunter2")?;
    let folder = format!("{}{}", root.path().display(), folder(&probe));
    ensure!(is_mounted(std::process::id(), &folder)?);
    first.kill()?;
    drop(probe);
    let _second = Agent::run(&serving())?;
    until_gone(std::process::id(), &folder)
}
