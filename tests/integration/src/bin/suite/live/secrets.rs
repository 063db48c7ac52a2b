//! What changes in the secrets of programs that run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::{Running, spawn, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

use super::{ConfigMap, LOOKS, SOON};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("live::a_file_is_replaced", a_file_is_replaced)
        .test(
            "live::a_folder_grows_no_further_than_its_files",
            a_folder_grows_no_further_than_its_files,
        )
        .test("live::replaced_files_are_whole", replaced_files_are_whole)
        .test("live::a_signal_tells_of_it", a_signal_tells_of_it)
        .test(
            "live::a_program_is_started_again",
            a_program_is_started_again,
        )
        .test("live::the_same_value_is_no_change", the_same_value)
        .test(
            "live::a_source_that_fails_changes_nothing",
            a_source_that_fails,
        )
        .test("live::of_an_earlier_agent", of_an_earlier_agent)
        .test("live::a_name_of_another_binding", a_name_of_another_binding)
        .test("live::a_new_source_is_another_value", a_new_source)
}

/// A program that tells what is in its file: at once, and on SIGHUP; it is ended by SIGTERM.
struct Told {
    folder: Scratch,
    source: PathBuf,
}

impl Told {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let source = folder.file("source", "one")?;
        let script = r#"#!/bin/sh
trap 'echo "hup $(cat $KERNELSEAL_SECRETS_DIR/TOKEN)"' HUP
trap 'echo told to end; exit 3' TERM
echo "begins $TOKEN $(cat $KERNELSEAL_SECRETS_DIR/TOKEN)"
while :; do sleep 0.1; done
"#;
        folder.program("teller", script)?;
        Ok(Self { folder, source })
    }

    fn config(&self) -> Config {
        Config::seal("teller").secret("TOKEN", json!({"fileRef": self.source.to_string_lossy()}))
    }

    fn start(&self) -> Result<Running> {
        let mut teller = spawn(&mut Command::new(self.folder.join("teller")))?;
        let line = teller.line(SOON)?;
        ensure!(line == "begins one one", "{line}");
        Ok(teller)
    }

    /// As it should be done: a new file takes the old one's name.
    fn set(&self, value: &str) -> Result<()> {
        let new = self.folder.file("source.new", value)?;
        Ok(fs::rename(new, &self.source)?)
    }

    fn rotated(agent: &mut Agent, teller: &Running) -> Result<Value> {
        rotated(agent, teller, 1)
    }
}

/// The event of so many a rotation.
fn rotated(agent: &mut Agent, program: &Running, times: usize) -> Result<Value> {
    let mut event = None;
    until("ROTATED", SOON, || {
        let events = agent.events(Duration::from_millis(50)).unwrap_or_default();
        let mut all = events
            .iter()
            .filter(|event| event["type"] == "ROTATED" && event["pid"] == program.pid());
        event = all.nth(times - 1).cloned();
        event.is_some()
    })?;
    event.context("no event")
}

fn asks(teller: &mut Running) -> Result<String> {
    teller.signal(Signal::SIGHUP)?;
    teller.line(SOON)
}

fn a_file_is_replaced() -> Result<()> {
    let told = Told::new()?;
    let mut agent = Agent::run(&told.config())?;
    let mut teller = told.start()?;
    let values = ["another", "", &"long".repeat(5000), "short"];
    for (n, value) in values.into_iter().enumerate() {
        told.set(value)?;
        let event = rotated(&mut agent, &teller, n + 1)?;
        ensure!(
            event["secrets"] == json!(["TOKEN"]) && event["files"] == json!(["TOKEN"]),
            "{event}"
        );
        ensure!(event["action"] == "none", "{event}");
        let line = asks(&mut teller)?;
        ensure!(
            line.trim_end() == format!("hup {value}").trim_end(),
            "{line}"
        );
    }
    // its user's alone, as before; nobody else's
    let path = format!("/run/kernelseal/secrets/{}/TOKEN", teller.pid());
    ensure!(fs::read(&path).is_err(), "{path} is open");
    ensure!(!agent.log_contains("not replaced"));
    Ok(())
}

/// A program that is given its file again and again has no more room of memory than before.
fn a_folder_grows_no_further_than_its_files() -> Result<()> {
    let told = Told::new()?;
    let mut agent = Agent::run(&told.config())?;
    let mut teller = told.start()?;
    for n in 1..=4 {
        told.set(&n.to_string())?;
        rotated(&mut agent, &teller, n)?;
    }
    let folder = format!("/run/kernelseal/secrets/{}", teller.pid());
    let room = statvfs(Path::new(&folder))?;
    // (what was there before is there until it is wiped)
    ensure!(
        room.blocks_free() <= 1 && room.files_free() <= 2,
        "{room:?}"
    );
    ensure!(asks(&mut teller)? == "hup 4");
    Ok(())
}

fn replaced_files_are_whole() -> Result<()> {
    let folder = Scratch::new()?;
    let source = folder.file("source", "0".repeat(10_000))?;
    let script = r#"#!/bin/sh
n=0
file=$KERNELSEAL_SECRETS_DIR/TOKEN
while [ $n -lt 150 ]; do
  n=$((n+1))
  exec 3< $file
  all=$(cat <&3)
  [ ${#all} = 10000 ] || { echo "of length ${#all}"; exit 1; }
  [ "$(echo $all | tr -s 0-5 | wc -c)" = 2 ] || { echo mixed; exit 1; }
done
echo whole
"#;
    folder.program("reader", script)?;
    let config = Config::seal("reader")
        .delivery(&["file"])
        .secret("TOKEN", json!({"fileRef": source.to_string_lossy()}));
    let mut agent = Agent::run(&config)?;
    let mut reader = spawn(&mut Command::new(folder.join("reader")))?;
    for digit in 1..=5 {
        let new = folder.file("new", digit.to_string().repeat(10_000))?;
        fs::rename(new, &source)?;
        if rotated(&mut agent, &reader, digit).is_err() {
            break; // it has ended
        }
    }
    let line = reader.line(Duration::from_mins(2))?;
    ensure!(line == "whole", "{line}");
    Ok(())
}

fn a_signal_tells_of_it() -> Result<()> {
    let told = Told::new()?;
    let config = told
        .config()
        .binding_key("onRotate", json!({"signal": "HUP"}));
    let mut agent = Agent::run(&config)?;
    let mut teller = told.start()?;
    told.set("two")?;
    ensure!(teller.line(SOON)? == "hup two");
    ensure!(Told::rotated(&mut agent, &teller)?["action"] == "signal");
    Ok(())
}

fn a_program_is_started_again() -> Result<()> {
    let told = Told::new()?;
    let config = told
        .config()
        .delivery(&["env", "file"])
        .binding_key("onRotate", "restart");
    let mut agent = Agent::run(&config)?;
    let mut teller = told.start()?;
    told.set("two")?;
    ensure!(teller.line(SOON)? == "told to end");
    ensure!(teller.wait(SOON)?.code() == Some(3));
    ensure!(Told::rotated(&mut agent, &teller)?["action"] == "restart");
    let mut again = spawn(&mut Command::new(told.folder.join("teller")))?;
    ensure!(again.line(SOON)? == "begins two two");
    Ok(())
}

fn the_same_value() -> Result<()> {
    let told = Told::new()?;
    let config = told.config().binding_key("onRotate", "restart");
    let mut agent = Agent::run(&config)?;
    let mut teller = told.start()?;
    told.set("one")?;
    thread::sleep(LOOKS);
    agent.signal(Signal::SIGHUP)?;
    thread::sleep(LOOKS);
    ensure!(asks(&mut teller)? == "hup one");
    let events = agent.events(Duration::from_millis(300))?;
    ensure!(
        !events.iter().any(|event| event["type"] == "ROTATED"),
        "{events:?}"
    );
    Ok(())
}

fn a_source_that_fails() -> Result<()> {
    let told = Told::new()?;
    let mut agent = Agent::run(&told.config().binding_key("onRotate", "restart"))?;
    let mut teller = told.start()?;
    fs::remove_file(&told.source)?;
    agent.wait_for_log("running programs keep what they were given", SOON)?;
    ensure!(asks(&mut teller)? == "hup one");
    told.set("two")?;
    ensure!(teller.line(SOON)? == "told to end");
    Ok(())
}

/// A change while no agent was there, and one after that: files of programs that another agent sealed.
fn of_an_earlier_agent() -> Result<()> {
    let told = Told::new()?;
    let first = Agent::run(&told.config())?;
    let mut teller = told.start()?;
    ensure!(first.stop()?.success());
    told.set("two")?;
    // (a file of another program has its name, too)
    let config = told.config().and_seal("other").value("TOKEN", "others");
    let mut second = Agent::run(&config)?;
    second.wait_for(is_replaced, SOON)?;
    ensure!(asks(&mut teller)? == "hup two");
    told.set("three")?;
    until("the second rotation", SOON, || {
        asks(&mut teller).is_ok_and(|line| line == "hup three")
    })
}

fn is_replaced(event: &Value) -> bool {
    event["type"] == "ROTATED" && event["files"] == json!(["TOKEN"])
}

/// A new agent's configuration gives a file's name to another binding: that one's value is not for who has the file.
fn a_name_of_another_binding() -> Result<()> {
    let told = Told::new()?;
    let first = Agent::run(&told.config())?;
    let mut teller = told.start()?;
    ensure!(first.stop()?.success());
    let others = Config::seal("nobody")
        .value("UNKNOWN", "unknown")
        .and_seal("other")
        .value("TOKEN", "others");
    let mut map = ConfigMap::new(&others.to_string())?;
    let mut second = map.agent()?;
    thread::sleep(LOOKS);
    ensure!(asks(&mut teller)? == "hup one", "it has another's value");
    // Its own binding is heeded when it is there again.
    told.set("two")?;
    map.swap(&told.config().to_string())?;
    second.wait_for(is_replaced, SOON)?;
    ensure!(asks(&mut teller)? == "hup two");
    Ok(())
}

/// The configuration names another source for a secret of a program that runs.
fn a_new_source() -> Result<()> {
    let told = Told::new()?;
    let mut map = ConfigMap::new(&told.config().to_string())?;
    let mut agent = map.agent()?;
    let mut teller = told.start()?;
    map.swap(&Config::seal("teller").value("TOKEN", "inline").to_string())?;
    Told::rotated(&mut agent, &teller).context("no rotation")?;
    ensure!(asks(&mut teller)? == "hup inline");
    Ok(())
}
