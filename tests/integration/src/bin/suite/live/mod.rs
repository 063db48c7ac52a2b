//! What changes while programs run: the configuration, its mode, and the secrets.

mod secrets;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::until;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::observe::{get, serving};

const SOON: Duration = Duration::from_secs(20);
/// Two looks at a file, and then some.
const LOOKS: Duration = Duration::from_secs(2);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    secrets::register(registry)
        .test("live::a_config_map_is_swapped", a_config_map_is_swapped)
        .test("live::a_hangup_is_heeded_at_once", a_hangup)
        .test(
            "live::what_is_wrong_changes_nothing",
            what_is_wrong_changes_nothing,
        )
        .test("live::the_mode_changes_at_once", the_mode_changes)
        .test("live::no_gap_when_names_change", no_gap)
}

/// A configuration as the kubelet puts it in place: `config.yaml` by two links.
struct ConfigMap {
    folder: Scratch,
    count: usize,
}

impl ConfigMap {
    fn new(config: &str) -> Result<Self> {
        let mut map = Self {
            folder: Scratch::new()?,
            count: 0,
        };
        map.swap(config)?;
        symlink("..data/config.yaml", map.path())?;
        Ok(map)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    fn swap(&mut self, config: &str) -> Result<()> {
        let before = format!("..2026_{}", self.count);
        self.count += 1;
        let now = format!("..2026_{}", self.count);
        fs::create_dir(self.folder.join(&now))?;
        fs::write(self.folder.join(&now).join("config.yaml"), config)?;
        symlink(&now, self.folder.join("..data_tmp"))?;
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data"))?;
        let _ = fs::remove_dir_all(self.folder.join(before));
        Ok(())
    }

    fn agent(&self) -> Result<Agent> {
        Agent::start_with(Agent::command(&[]), &self.path())?.readied()
    }
}

fn two_programs() -> Result<(Scratch, [PathBuf; 2])> {
    let folder = Scratch::new()?;
    let one = folder.probe("probe-static", "one")?;
    let two = folder.probe("probe-static", "two")?;
    Ok((folder, [one, two]))
}

fn finds(program: &PathBuf) -> Result<Value> {
    Ok(report(&mut asked_for_token(program))?.1)
}

fn a_config_map_is_swapped() -> Result<()> {
    let (_folder, [one, two]) = two_programs()?;
    let mut map = ConfigMap::new(&Config::token_for("one").to_string())?;
    let mut agent = map.agent()?;
    ensure_both(&finds(&one)?, "hunter2")?;
    ensure_none(&finds(&two)?)?;
    map.swap(&Config::seal("two").value("TOKEN", "other").to_string())?;
    agent.wait_for_log("configuration reloaded", SOON)?;
    ensure_none(&finds(&one)?)?;
    ensure_both(&finds(&two)?, "other")?;
    Ok(())
}

fn a_hangup() -> Result<()> {
    let (_folder, [one, two]) = two_programs()?;
    let mut map = ConfigMap::new(&Config::token_for("one").to_string())?;
    let mut agent = map.agent()?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log("the configuration has not changed", SOON)?;
    map.swap(&Config::token_for("two").to_string())?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log("configuration reloaded", SOON)?;
    ensure_none(&finds(&one)?)?;
    ensure_both(&finds(&two)?, "hunter2")
}

fn what_is_wrong_changes_nothing() -> Result<()> {
    let (_folder, [one, _]) = two_programs()?;
    let config = serving().and_seal("one").value("TOKEN", "hunter2");
    let mut map = ConfigMap::new(&config.to_string())?;
    let mut agent = map.agent()?;
    let is_good = || -> Result<bool> {
        let (_, text) = get("/metrics")?;
        Ok(text.contains("\nkernelseal_config_last_reload_successful 1\n"))
    };
    ensure!(is_good()?);
    map.swap("version: v1\npolicy: {mode: enforced}\n")?;
    agent.wait_for_log("config.yaml:2:16", SOON)?;
    ensure!(agent.log_contains("the previous configuration stays in force"));
    let rejected = agent.wait_for(|event| event["action"] == "config_rejected", SOON)?;
    let why = rejected["reason"].as_str().unwrap_or_default();
    ensure!(why.contains("config.yaml:2:16"), "{rejected}");
    ensure!(!is_good()?);
    ensure_both(&finds(&one)?, "hunter2")?;
    // right in itself, and cannot be done
    map.swap(
        &Config::seal("one")
            .secret(
                "TOKEN",
                json!({"secretKeyRef": {"name": "none", "key": "k"}}),
            )
            .to_string(),
    )?;
    agent.wait_for_log("secretKeyRef none/k", SOON)?;
    ensure_both(&finds(&one)?, "hunter2")?;
    map.swap(&config.value("SECOND", "x").to_string())?;
    agent.wait_for_log("configuration reloaded", SOON)?;
    ensure!(is_good()?);
    Ok(())
}

fn the_mode_changes() -> Result<()> {
    let with = |mode: &str| serving().policy("mode", mode).to_string();
    let mut map = ConfigMap::new(&with("disabled"))?;
    let mut agent = Agent::start_with(Agent::command(&[]), &map.path())?;
    agent.wait_for_log("policy.mode is disabled", SOON)?;
    let is = |action: &'static str, mode: &'static str| {
        move |event: &Value| event["action"] == action && event["mode"] == mode
    };
    agent.wait_for(is("started", "disabled"), SOON)?;
    map.swap(&with("audit"))?;
    agent.ready(SOON)?;
    agent.wait_for(is("mode_changed", "audit"), SOON)?;
    let (probe, found) =
        report(asked_for_token(probe::path("probe-static")?).args(["--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    let reads = || fs::read(format!("/proc/{}/environ", probe.pid())).is_ok();
    ensure!(reads(), "it only looks on");
    for (mode, is_open) in [
        ("enforce", false),
        ("audit", true),
        ("disabled", true),
        ("enforce", false),
    ] {
        let before = agent.log().len();
        map.swap(&with(mode))?;
        until("another configuration", SOON, || {
            let log = agent.log();
            log[before..]
                .iter()
                .any(|line| line.contains("configuration reloaded"))
        })?;
        ensure!(reads() == is_open, "{mode}");
        agent.wait_for(is("mode_changed", mode), SOON)?;
        let is_up = i32::from(mode != "disabled");
        let up = format!("\nkernelseal_guard_up {is_up}\n");
        let text = get("/metrics")?.1;
        ensure!(text.contains(&up), "{mode}: {text}");
    }
    let starts = agent.events(Duration::from_millis(100))?.iter();
    ensure!(starts.filter(|event| event["action"] == "started").count() == 1);
    Ok(())
}

/// A program that both configurations name gets its secret all the while.
fn no_gap() -> Result<()> {
    let (_folder, [one, _]) = two_programs()?;
    let config = |n: usize| {
        Config::token_for("one")
            .and_seal(&format!("other-{n}"))
            .value("X", "x")
            .to_string()
    };
    let mut map = ConfigMap::new(&config(0))?;
    let agent = map.agent()?;
    for n in 1..=5 {
        map.swap(&config(n))?;
        agent.signal(Signal::SIGHUP)?;
        for _ in 0..5 {
            ensure_both(&finds(&one)?, "hunter2")?;
        }
    }
    Ok(())
}
