//! Many agents on one node, each in a PID namespace of its own, and one kernel side for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::namespace::{number_inside, process_one};
use kernelseal_integration::pinned::PINS;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::{Running, run, spawn};
use kernelseal_integration::registry::Registry;
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(8);
const SOON: Duration = Duration::from_mins(1);
const SETTLE: Duration = Duration::from_millis(50);
/// Agents at a time.
const CROWD: usize = 60;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("scopes::sixty_agents", LIMIT, sixty_agents)
        .test(
            "scopes::a_closer_agent_goes_first",
            a_closer_agent_goes_first,
        )
}

/// A pod with an agent of its own.
pub struct Pod {
    // In the order in which they end.
    agent: Option<Agent>,
    place: Place,
    secret: String,
}

impl Pod {
    /// Starts the agent there, for a target whose secret has the pod's name.
    pub fn start(place: Place, secret: &str) -> Result<Self> {
        let config = format!(
            "version: v1\nmonitoring: {{metricsPort: 0}}\nsecrets:\n  - name: {secret}\n    selector: {{binary: probe-static}}\n    \
             secretRefs:\n      - name: TOKEN\n        source: {{value: value-of-{secret}}}\n"
        );
        let mut agent = Agent::start_as(place.command(kernelseal())?, &config)?;
        agent.ready(SOON).context(secret.to_owned())?;
        Ok(Self {
            agent: Some(agent),
            place,
            secret: secret.to_owned(),
        })
    }

    /// Starts a target here; it must have the secret of this pod, in its variable and its file.
    pub fn seals(&mut self) -> Result<Running> {
        let (target, report) = start_target(&self.place)?;
        let wanted = format!("value-of-{}", self.secret);
        ensure!(
            report["env"]["TOKEN"] == wanted.as_str()
                && report["files"]["TOKEN"]["content"] == wanted.as_str(),
            "in the pod of {} a target found {report}",
            self.secret
        );
        Ok(target)
    }

    /// Ends everything in it at once, as a container runtime does.
    pub fn kill(mut self) -> Result<()> {
        if let Place::Pod { number, .. } = &self.place {
            run(Command::new("kill").args(["-9", &number.to_string()]))?;
        }
        let mut agent = self.agent.take().context("the agent was stopped")?;
        let begin = Instant::now();
        while agent.events(SETTLE).is_ok() {
            ensure!(begin.elapsed() < SOON, "the agent survives its pod");
        }
        let status = agent.stop()?;
        ensure!(!status.success(), "the agent survived its pod");
        Ok(())
    }

    fn events(&mut self) -> Result<Vec<Value>> {
        let agent = self.agent.as_mut().context("the agent was stopped")?;
        Ok(agent.events(SETTLE)?.to_vec())
    }
}

fn kernelseal() -> PathBuf {
    std::env::var_os("KERNELSEAL_BIN").map_or_else(|| "/usr/bin/kernelseal".into(), PathBuf::from)
}

/// Starts a target and gives what it found.
pub fn start_target(place: &Place) -> Result<(Running, Value)> {
    let mut command = place.command(probe::path("probe-static")?)?;
    command.env_clear().env("PATH", "/usr/bin:/bin");
    let mut target = spawn(command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]))?;
    let report = target.json(SOON)?;
    Ok((target, report))
}

/// How many agents the kernel side knows, as `kernelseal status` tells it.
fn agents() -> Result<usize> {
    // (which fails where there is none)
    let status = Command::new(kernelseal()).arg("status").output()?;
    let text = String::from_utf8_lossy(&status.stdout);
    Ok(text
        .lines()
        .filter(|line| line.starts_with("pid:[") && line.split_whitespace().nth(1) != Some("none"))
        .count())
}

/// The files pinned, each with its inode: another set would have others.
fn pins() -> Result<BTreeSet<(PathBuf, u64)>> {
    let mut found = BTreeSet::new();
    for version in fs::read_dir(PINS).with_context(|| format!("cannot read {PINS}"))? {
        for pin in fs::read_dir(version?.path())? {
            let pin = pin?;
            found.insert((pin.path(), pin.metadata()?.ino()));
        }
    }
    Ok(found)
}

/// How many sets of programs and maps are pinned.
fn versions() -> Result<usize> {
    Ok(fs::read_dir(PINS)?.count())
}

fn sixty_agents() -> Result<()> {
    let mut pods = Vec::new();
    let mut first_pins = None;
    for number in 0..CROWD {
        pods.push(
            Pod::start(Place::pod()?, &format!("pod-{number}"))
                .with_context(|| format!("agent {number}"))?,
        );
        let pins = pins()?;
        let first = first_pins.get_or_insert_with(|| pins.clone());
        ensure!(*first == pins, "agent {number} changed the pins");
    }
    ensure!(versions()? == 1, "there is more than one set of pins");
    ensure!(agents()? == CROWD, "status tells of {} agents", agents()?);
    let targets = pods
        .iter_mut()
        .map(Pod::seals)
        .collect::<Result<Vec<_>>>()?;
    for pod in &mut pods {
        let sealed: Vec<Value> = pod
            .events()?
            .into_iter()
            .filter(|event| event["type"] == "SEALED")
            .collect();
        ensure!(
            sealed.len() == 1 && sealed[0]["bindings"][0] == pod.secret.as_str(),
            "the agent of {} told {sealed:?}",
            pod.secret
        );
    }
    // An attempt in one pod is the business of that pod's agent alone.
    let attacked = CROWD / 2;
    let own = targets_own_number(&targets[attacked])?;
    run(pods[attacked]
        .place
        .command("sh")?
        .args(["-c", &format!("! cat /proc/{own}/environ")]))?;
    for (number, pod) in pods.iter_mut().enumerate() {
        let blocked = pod
            .events()?
            .iter()
            .filter(|event| event["type"] == "BLOCKED")
            .count();
        ensure!(
            (blocked > 0) == (number == attacked),
            "agent {number} told {blocked} BLOCKED events, of an attempt in pod {attacked}"
        );
    }
    drop(targets);
    let mut last = pods.pop().context("no pods")?;
    for pod in &mut pods {
        let agent = pod.agent.take().context("stopped twice")?;
        let status = agent.stop()?;
        ensure!(
            status.success(),
            "the agent of {} ended with {status}",
            pod.secret
        );
    }
    for _ in 0..3 {
        last.seals()?;
    }
    ensure!(
        first_pins == Some(pins()?),
        "the pins changed as agents left"
    );
    Ok(())
}

/// The number the target has where it is, from its own `status`.
fn targets_own_number(target: &Running) -> Result<u32> {
    number_inside(process_one(target.pid())?)
}

/// The node's agent leaves a pod with an agent of its own to that one, also where both name the program.
fn a_closer_agent_goes_first() -> Result<()> {
    let mut node = Pod::start(Place::Machine, "node")?;
    let mut pod = Pod::start(Place::pod()?, "pod")?;
    let below = pod.place.pod_below()?;
    let other = Place::pod()?;
    let _kept = [node.seals()?, pod.seals()?];
    let (_a, report) = start_target(&below)?;
    ensure!(
        report["env"]["TOKEN"] == "value-of-pod",
        "below the pod: {report}"
    );
    let (_b, report) = start_target(&other)?;
    ensure!(
        report["env"]["TOKEN"] == "value-of-node",
        "in a pod without an agent: {report}"
    );
    let count = |events: Vec<Value>| {
        events
            .iter()
            .filter(|event| event["type"] == "SEALED")
            .count()
    };
    let told = (count(node.events()?), count(pod.events()?));
    ensure!(
        told == (2, 2),
        "the agents told of {told:?} sealed programs"
    );
    ensure!(Path::new(PINS).exists());
    Ok(())
}
