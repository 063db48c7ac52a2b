//! The kernel side's maps are full.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{self, run, state};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::Value;
use sidecar_common::layout::{MAX_SEALED, SEALED_FOR_FORKS, SEALED_FOR_NEWBORN};

use super::{SOON, agent, nobody_is_stopped, target};
use crate::observe::{get, serving};

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::too_many_sealed", too_many_sealed)
        .test("faults::a_start_that_fails", a_start_that_fails)
        .test("faults::too_many_held", too_many_held)
        .test("faults::too_many_folders", too_many_folders)
        .test("faults::no_room_for_another_name", no_room_for_another_name)
}

/// A map with so many entries that nobody owns, as long as it lives.
struct Filled {
    map: PathBuf,
    sizes: [&'static str; 2],
    added: String,
}

impl Filled {
    /// Above every process number there can be (`PID_MAX_LIMIT` is 2^22).
    const FIRST: &'static str = "8000000";
    const COUNT: &'static str = "80000";

    /// With the bytes of a key and of a value.
    fn up(map: &str, sizes: [&'static str; 2]) -> Result<Self> {
        let mut filled = Self {
            map: pinned::path(map)?,
            sizes,
            added: String::new(),
        };
        filled.added = filled.run("add")?;
        let added: u32 = filled.added.trim().parse()?;
        ensure!(added > 1000, "only {added} went into {map}");
        Ok(filled)
    }

    fn run(&self, what: &str) -> Result<String> {
        let [key, value] = self.sizes;
        let mut fill = Command::new(probe::path("fill")?);
        fill.arg(what).arg(&self.map);
        run(fill.args([Self::FIRST, Self::COUNT, key, value]))
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let removed = self.run("remove").expect("a map can be opened again");
        assert_eq!(removed, self.added, "what was added is removed");
    }
}

/// Starts one, which must be refused for that reason; then again when there is room.
fn refused_while(agent: &mut Agent, filled: Filled, reason: &str) -> Result<()> {
    let child = target()?.spawn();
    match child {
        // Refused at the exec itself.
        Err(error) => ensure!(error.raw_os_error() == Some(libc::EPERM), "{error}"),
        Ok(mut child) => {
            let status = child.wait()?;
            ensure!(status.signal() == Some(9), "{status}");
        }
    }
    let is_it = |event: &Value| event["type"] == "REFUSED" && event["process"] == "probe-static";
    let event = agent.wait_for(is_it, SOON)?;
    let said = event["reason"].as_str().unwrap_or_default();
    ensure!(said.contains(reason), "{said}");
    nobody_is_stopped()?;
    drop(filled);
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

/// The kernel side takes its map of sealed processes for so much fuller, as long as it lives. (It counts for itself.)
struct Crowded(u32);

impl Crowded {
    fn by(places: u32) -> Result<Self> {
        Self::add(places).map(|()| Self(places))
    }

    fn add(places: u32) -> Result<()> {
        let mut count = pinned::array::<u32>("SEALED_COUNT")?;
        let now = count.get(&0, 0)?;
        Ok(count.set(0, now.wrapping_add(places), 0)?)
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        Self::add(self.0.wrapping_neg()).expect("a map can be opened again");
    }
}

/// The last places are for forks: the program too many does not start, and what is sealed forks on; and where a child might
/// not be sealed, it does not come to be.
fn too_many_sealed() -> Result<()> {
    const LEFT: u32 = SEALED_FOR_FORKS - 100;
    let config = Config::token_for("probe-static").and_seal("forker");
    let mut agent = Agent::run(&config.value("TOKEN", "hunter2"))?;
    let mut forker = process::spawn(Command::new(probe::path("forker")?).arg("TOKEN"))?;
    ensure!(forker.json(SOON)?["found"] == true);
    let refused = |name: &'static str| {
        move |event: &Value| event["type"] == "REFUSED" && event["process"] == name
    };
    let crowded = Crowded::by(u32::try_from(MAX_SEALED)? - LEFT)?;
    ensure!(
        target()?.spawn().is_err(),
        "it started where there is room for forks alone"
    );
    let event = agent.wait_for(refused("probe-static"), SOON)?;
    let said = event["reason"].as_str().unwrap_or_default();
    ensure!(said.contains("map of sealed processes is full"), "{said}");
    ensure!(
        state(forker.pid()).is_some_and(|state| state != 'Z'),
        "it may fork"
    );
    let more_so = Crowded::by(LEFT - SEALED_FOR_NEWBORN)?;
    let event = agent.wait_for(refused("forker"), SOON)?;
    let said = event["reason"].as_str().unwrap_or_default();
    ensure!(
        said.contains("may not fork") && event["action"] == "goes_on",
        "{event}"
    );
    // (as it does when a fork fails)
    ensure!(forker.wait(SOON)?.code() == Some(1));
    drop((crowded, more_so));
    nobody_is_stopped()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}

fn too_many_held() -> Result<()> {
    let mut agent = agent()?;
    let filled = Filled::up("HELD", ["4", "360"])?;
    refused_while(&mut agent, filled, "map of held programs is full")
}

fn too_many_folders() -> Result<()> {
    let mut agent = agent()?;
    let filled = Filled::up("VAULTS", ["8", "16"])?;
    refused_while(&mut agent, filled, "make a tmpfs")
}

/// An edit that the kernel side has no room for does not end the agent, and is in force once there is room.
fn no_room_for_another_name() -> Result<()> {
    let folder = Scratch::new()?;
    let one = folder.probe("probe-static", "one")?;
    let two = folder.probe("probe-static", "two")?;
    let before = serving().and_seal("one").value("TOKEN", "hunter2");
    let path = folder.file("config.yaml", before.to_string())?;
    let mut agent = Agent::start_with(Agent::command(&[]), &path)?;
    let is_ready = || Ok::<_, anyhow::Error>(get("/ready")?.0.contains("200"));
    agent.ready(SOON)?;
    let filled = Filled::up("BINDINGS", ["16", "8"])?;
    let after = before.and_seal("two").value("TOKEN", "other");
    fs::write(&path, after.to_string())?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log("not all of the configuration is in force", SOON)?;
    ensure!(!is_ready()?, "ready with a name that is not watched");
    ensure_both(&report(&mut asked_for_token(&one))?.1, "hunter2")?;
    drop(filled);
    agent.wait_for_log("configuration reloaded", SOON)?;
    ensure!(is_ready()?);
    ensure_both(&report(&mut asked_for_token(&two))?.1, "other")
}

/// An agent that cannot begin leaves what one before it left: names that are refused.
fn a_start_that_fails() -> Result<()> {
    agent()?.kill()?;
    let filled = Filled::up("SEALED", ["4", "24"])?;
    let (_, said) = Agent::expect_failure(&Config::token_for("probe-static").to_string())?;
    ensure!(said.contains("is full"), "{said}");
    ensure!(target()?.spawn().is_err(), "no agent, no start");
    drop(filled);
    ensure!(target()?.spawn().is_err(), "no agent, no start, still");
    let _agent = agent()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")
}
