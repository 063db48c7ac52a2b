//! One script, run without an agent, beside sealed programs, and sealed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{Running, run, spawn};
use kernelseal_integration::programs;
use kernelseal_integration::scratch::Scratch;
use serde_json::Value;

use super::VALUE;

/// A script runs twice in a test that is run by itself.
pub(super) const LIMIT: Duration = Duration::from_mins(8);
const SOON: Duration = Duration::from_secs(20);
/// How long a script may run. (That of postgres was seen to take 50 s, beside another guest.)
const PATIENCE: Duration = Duration::from_mins(3);
const SETTLE: Duration = Duration::from_millis(300);
const PRELUDE: &str = include_str!("scripts/prelude.sh");
/// How the lines begin that tell of the secret.
const OF_THE_SECRET: [&str; 2] = ["variable: ", "file: "];

/// A script, and how its program is bound.
pub(super) struct Case {
    script: &'static str,
    config: Option<fn() -> Config>,
    finds: &'static [&'static str],
    alone: OnceLock<String>,
}

impl Case {
    /// A script of programs that are never bound.
    pub(super) const fn new(script: &'static str) -> Self {
        Self {
            script,
            config: None,
            finds: &[],
            alone: OnceLock::new(),
        }
    }

    /// The configuration that binds its program, and what that program then tells of its secret.
    pub(super) const fn bound(
        mut self,
        config: fn() -> Config,
        finds: &'static [&'static str],
    ) -> Self {
        self.config = Some(config);
        self.finds = finds;
        self
    }

    /// Whether its program can be bound.
    pub(super) const fn is_bound(&self) -> bool {
        self.config.is_some()
    }

    /// What it prints where nothing of kernelseal is loaded.
    pub(super) fn alone(&self) -> Result<&str> {
        if let Some(text) = self.alone.get() {
            return Ok(text);
        }
        run(&mut Agent::command(&["cleanup", "--force"]))?;
        let text = perform(self.script).context("without an agent")?;
        for find in self.finds {
            ensure!(!text.contains(find), "{find} without an agent:\n{text}");
        }
        Ok(self.alone.get_or_init(|| text))
    }

    /// Beside sealed programs it does what it does without them, and nothing is said of it.
    pub(super) fn beside(&self) -> Result<()> {
        let alone = self.alone()?;
        let mut machine = Machine::busy()?;
        let text = perform(self.script).context("beside sealed programs")?;
        machine.ensure_quiet()?;
        same(alone, &text)
    }

    /// Bound, it does the same and finds its secret.
    pub(super) fn sealed(&self) -> Result<()> {
        let alone = self.alone()?;
        let config = self.config.context("this case binds nothing")?;
        let mut agent = Agent::run(&config())?;
        let text = match perform(self.script) {
            Ok(text) => text,
            Err(error) => {
                let events = agent.events(SETTLE)?;
                return Err(error.context(format!("sealed, with the events {events:?}")));
            }
        };
        let (told, rest) = parted(&text);
        let (_, wanted) = parted(alone);
        if let Err(error) = same(&wanted, &rest) {
            let events = agent.events(SETTLE)?;
            return Err(error.context(format!("sealed, with the events {events:?}")));
        }
        // As often as it was asked.
        for find in self.finds {
            ensure!(told.contains(find), "not found: {find}\n{text}");
        }
        for line in told {
            ensure!(self.finds.contains(&line), "found: {line}\n{text}");
        }
        ensure_all_ended(&mut agent)
    }
}

/// A machine on which programs are sealed, one of them with threads, and every guard there is is on.
pub(super) struct Machine {
    agent: Agent,
    sealed: Vec<Running>,
}

impl Machine {
    pub(super) fn busy() -> Result<Self> {
        let config = Config::token_for("probe-static")
            .and_seal("probe-go")
            .value("TOKEN", VALUE)
            .policy("blockMaps", true);
        let agent = Agent::run(&config)?;
        let mut sealed = Vec::new();
        for arguments in [
            ["probe-static", "--sleep", "600"],
            ["probe-go", "--threads", "3"],
        ] {
            let mut command = asked_for_token(probe::path(arguments[0])?);
            let (running, found) = report(command.args(&arguments[1..]))?;
            ensure_both(&found, VALUE)?;
            sealed.push(running);
        }
        Ok(Self { agent, sealed })
    }

    /// The events until now and in the next `settle` that are not just of the sealed programs' starts.
    pub(super) fn others(&mut self, settle: Duration) -> Result<Vec<Value>> {
        let sealed: Vec<u32> = self.sealed.iter().map(Running::pid).collect();
        let is_start = |event: &Value| {
            ["EXEC", "SEALED"].iter().any(|kind| event["type"] == *kind)
                && sealed.iter().any(|pid| event["pid"] == *pid)
        };
        let mut events = self.agent.events(settle)?.to_vec();
        events.retain(|event| !is_start(event) && event["type"] != "AGENT");
        Ok(events)
    }

    /// Fails if an event is about anybody but the sealed programs, or if those are no longer guarded.
    pub(super) fn ensure_quiet(&mut self) -> Result<()> {
        let others = self.others(SETTLE)?;
        ensure!(others.is_empty(), "told of others: {others:?}");
        for pid in self.sealed.iter().map(Running::pid) {
            ensure!(
                fs::read(format!("/proc/{pid}/environ")).is_err(),
                "{pid} was not guarded meanwhile"
            );
        }
        self.agent.event("BLOCKED", std::process::id())?;
        Ok(())
    }
}

fn is_refusal(event: &Value) -> bool {
    ["BLOCKED", "REFUSED", "AUDIT", "DROPPED"]
        .iter()
        .any(|kind| event["type"] == *kind)
}

/// Fails if anybody was refused anything, if nobody was sealed, or if one of these still runs.
pub(super) fn ensure_all_ended(agent: &mut Agent) -> Result<()> {
    let events = agent.events(SETTLE)?.to_vec();
    let refusals: Vec<&Value> = events.iter().filter(|event| is_refusal(event)).collect();
    ensure!(refusals.is_empty(), "{refusals:?}");
    let sealed = events.iter().filter(|event| event["type"] == "SEALED");
    let pids: Vec<u64> = sealed.filter_map(|event| event["pid"].as_u64()).collect();
    ensure!(!pids.is_empty(), "nobody was sealed");
    for pid in pids {
        agent.wait_for(
            |event| event["type"] == "EXITED" && event["pid"] == pid,
            SOON,
        )?;
    }
    Ok(())
}

/// Runs a script in a folder of its own, among the ordinary programs; gives what it printed.
pub(super) fn perform(script: &str) -> Result<String> {
    perform_within(script, PATIENCE)
}

/// The same of one that may run for so long.
pub(super) fn perform_within(script: &str, patience: Duration) -> Result<String> {
    let folder = Scratch::within(&programs::root()?.join("tmp"))?;
    // To a file: what the script leaves behind when it fails would keep a pipe open.
    let mut running = spawn(&mut shell(&format!("exec >printed\n{script}"), &folder)?)?;
    let status = running.wait(patience);
    let printed = fs::read(folder.join("printed")).context("the script did not begin")?;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let status = status.with_context(|| format!("it printed:\n{printed}"))?;
    ensure!(status.success(), "{status}; it printed:\n{printed}");
    let place = inside(&folder)?;
    Ok(printed.replace(&*place.to_string_lossy(), "$WORK"))
}

/// The folder as those programs see it.
fn inside(folder: &Scratch) -> Result<PathBuf> {
    Ok(Path::new("/").join(folder.path().strip_prefix(programs::root()?)?))
}

/// The command that does so.
pub(super) fn shell(script: &str, folder: &Scratch) -> Result<Command> {
    let root = programs::root()?;
    let server = root.join("usr/local/bin/serve-go");
    fs::create_dir_all(server.parent().context("no folder")?)?;
    fs::copy(probe::path("serve-go")?, &server).context("cannot copy serve-go")?;
    let mut command = programs::command("/usr/bin/bash")?;
    command.env("WORK", inside(folder)?);
    command.args(["-c", &format!("{PRELUDE}{script}")]);
    Ok(command)
}

/// The lines that tell of the secret, and the others.
fn parted(text: &str) -> (Vec<&str>, String) {
    let is_told = |line: &&str| OF_THE_SECRET.iter().any(|word| line.starts_with(word));
    let (told, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(is_told);
    (told, rest.join("\n"))
}

/// (How they differ comes last: of a long message people often see just the end.)
fn same(alone: &str, now: &str) -> Result<()> {
    let (alone, now) = (alone.trim_end(), now.trim_end());
    ensure!(
        alone == now,
        "it is not as without an agent:\n{now}\n--- which differs in:\n{}",
        different(alone, now)
    );
    println!("{now}");
    Ok(())
}

/// The lines that only one of the two has: those without an agent after a `-`, those of now after a `+`.
fn different(alone: &str, now: &str) -> String {
    let only = |text: &str, other: &str, sign: char| -> Vec<String> {
        let others: Vec<&str> = other.lines().collect();
        let lines = text.lines().filter(|line| !others.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    [only(alone, now, '-'), only(now, alone, '+')]
        .concat()
        .join("\n")
}
