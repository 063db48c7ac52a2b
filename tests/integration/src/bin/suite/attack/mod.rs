//! Root next to a sealed process tries everything to read its secret.

mod agents;
mod neighbours;
mod races;
mod scene;
mod siege;
mod vectors;
mod ways;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{Running, run, spawn, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::Value;

use self::scene::{Ground, SECRET, Scene};
use self::vectors::{Guarded, Vector};

const LIMIT: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_secs(20);
/// What every configuration here begins with.
const DEFAULT: &str = "mode: enforce";
const MAPS_TOO: &str = "mode: enforce, blockMaps: true";
const AUDIT: &str = "mode: audit, blockMaps: true";

/// Who is where, and what the tests there are called.
const GROUNDS: [(&str, Ground); 4] = [
    ("machine", Ground::Machine),
    ("pod_from_machine", Ground::PodFromMachine),
    ("inside_a_pod", Ground::InsidePod),
    ("below_the_agents_pod", Ground::BelowPod),
];
/// A test that any ground will do for.
type Test = fn(Ground) -> Result<()>;
/// What is tested on each ground, and how the tests' names end.
const KINDS: [(&str, Test); 3] = [
    ("", |ground| blocked(ground, DEFAULT)),
    ("_maps", |ground| blocked(ground, MAPS_TOO)),
    ("_audit", audited),
];

/// Adds this module's tests.
pub fn register(mut registry: Registry) -> Registry {
    for (end, test) in KINDS {
        for (name, ground) in GROUNDS {
            let name = format!("attack::{name}{end}");
            registry = registry.slow_test(name, LIMIT, move || test(ground));
        }
    }
    registry = registry
        .slow_test("attack::core_dump", LIMIT, core_dump)
        .test("attack::core_dump_to_a_pipe", core_dump_to_a_pipe)
        .test(
            "attack::core_dump_by_its_own_limit",
            core_dump_by_its_own_limit,
        );
    siege::register(neighbours::register(agents::register(races::register(
        registry,
    ))))
}

/// Nothing leaks; what the policy guards ends with EPERM and an event; what tools need works on.
fn blocked(ground: Ground, policy: &str) -> Result<()> {
    let mut scene = Scene::set(ground, policy)?;
    let guards_maps = policy == MAPS_TOO;
    let found = scene.attack("all")?;
    let mut wrong = Vec::new();
    for vector in Vector::all(&scene)? {
        let Some(outcome) = found
            .iter()
            .find(|line| line["vector"] == vector.name.as_str())
        else {
            wrong.push(format!("{}: was not tried", vector.name));
            continue;
        };
        if outcome["leaked"] != false {
            wrong.push(format!("{}: read the secret", vector.name));
        }
        let is_guarded = match vector.guarded {
            Guarded::Always => true,
            Guarded::WithMaps => guards_maps,
            Guarded::Never => false,
        };
        if !is_guarded {
            continue;
        }
        // process_madvise hands on what mm_access says, and that calls every refusal EACCES
        let refused = if vector.name == "process_madvise" {
            libc::EACCES
        } else {
            libc::EPERM
        };
        if outcome["errno"] != refused {
            wrong.push(format!(
                "{}: ended with errno {}",
                vector.name, outcome["errno"]
            ));
        }
        if !scene.was_told("BLOCKED", vector.access)? {
            wrong.push(format!(
                "{}: no BLOCKED event for {}",
                vector.name, vector.access
            ));
        }
    }
    wrong.extend(scene.tools_work()?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Everything is allowed, told, and where memory or a file was opened the secret is really found: the attack is one.
fn audited(ground: Ground) -> Result<()> {
    let mut scene = Scene::set(ground, AUDIT)?;
    let found = scene.attack("all")?;
    let mut wrong = Vec::new();
    for vector in Vector::all(&scene)? {
        let Some(outcome) = found
            .iter()
            .find(|line| line["vector"] == vector.name.as_str())
        else {
            wrong.push(format!("{}: was not tried", vector.name));
            continue;
        };
        if vector.guarded == Guarded::Never {
            continue;
        }
        if outcome["errno"] == libc::EPERM {
            wrong.push(format!("{}: was refused", vector.name));
        }
        if vector.leaks_when_allowed && outcome["leaked"] != true {
            wrong.push(format!(
                "{}: did not find the secret: {outcome}",
                vector.name
            ));
        }
        if !scene.was_told("AUDIT", vector.access)? {
            wrong.push(format!(
                "{}: no AUDIT event for {}",
                vector.name, vector.access
            ));
        }
    }
    let blocked = scene
        .events()?
        .iter()
        .filter(|event| event["type"] == "BLOCKED")
        .count();
    if blocked > 0 {
        wrong.push(format!("{blocked} BLOCKED events in audit mode"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Root names the file and sends the signal, but does not raise the limit: there is no dump.
fn core_dump() -> Result<()> {
    let _pattern = Pattern::as_before()?;
    let mut scene = Scene::set(Ground::Machine, DEFAULT)?;
    let found = scene.attack("core-dump")?;
    for line in &found {
        ensure!(line["leaked"] == false, "{line}");
        ensure!(line["errno"] == libc::EPERM, "{line}");
    }
    ensure!(!found.is_empty());
    Ok(())
}

/// How core dumps are named, put back in the end.
struct Pattern(String);

impl Pattern {
    const FILE: &str = "/proc/sys/kernel/core_pattern";

    fn as_before() -> Result<Self> {
        Ok(Self(fs::read_to_string(Self::FILE)?))
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        fs::write(Self::FILE, &self.0).expect("core_pattern can be written");
    }
}

/// To a program the kernel dumps whatever the limit is: not that of a sealed one, which has no need to be asked.
fn core_dump_to_a_pipe() -> Result<()> {
    let _pattern = Pattern::as_before()?;
    let folder = Scratch::new()?;
    let taker = folder.program("take", "#!/bin/sh\nexec cat >\"$1\"\n")?;
    let pattern = format!("|{} {}", taker.display(), folder.join("core.%p").display());
    fs::write(Pattern::FILE, pattern)?;
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let (mut sealed, found) = probe::staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    let mut other = spawn(Command::new("sleep").arg("600"))?;
    for process in [&mut sealed, &mut other] {
        process.signal(Signal::SIGABRT)?;
        ensure!(process.wait(SOON)?.signal() == Some(libc::SIGABRT));
    }
    let core = |process: &Running| folder.join(format!("core.{}", process.pid()));
    until("another program's dump is there", SOON, || {
        fs::metadata(core(&other)).is_ok_and(|core| core.len() > 0)
    })?;
    ensure!(!core(&sealed).exists(), "a dump of the sealed one");
    Ok(())
}

/// A program that raises its own limit is dumped, to a file as far as that goes and to a pipe always: without its memory.
fn core_dump_by_its_own_limit() -> Result<()> {
    let _pattern = Pattern::as_before()?;
    let folder = Scratch::new()?;
    // (there when it is whole)
    let taker = folder.program(
        "take",
        "#!/bin/sh\ncat >\"$1.part\"; mv \"$1.part\" \"$1\"\n",
    )?;
    let at = folder.join("core.%p");
    let to_a_file = at.display().to_string();
    let to_a_pipe = format!("|{} {}", taker.display(), at.display());
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    for (limit, pattern) in [
        ("1000000000", &to_a_file),
        ("0", &to_a_pipe),
        ("2", &to_a_pipe),
    ] {
        fs::write(Pattern::FILE, pattern)?;
        let mut sealed = with_core_limit(limit)?;
        ensure!(sealed.json(SOON)?["errno"] == 0, "{limit}: refused");
        sealed.signal(Signal::SIGABRT)?;
        ensure!(sealed.wait(SOON)?.signal() == Some(libc::SIGABRT));
        let core = folder.join(format!("core.{}", sealed.pid()));
        until("it is dumped", SOON, || {
            fs::metadata(&core).is_ok_and(|core| core.len() > 0)
        })?;
        let dumped = fs::read(&core)?;
        let secret = b"hunter2";
        ensure!(
            !dumped.windows(secret.len()).any(|part| part == secret),
            "{limit}: the secret is in {pattern}"
        );
    }
    Ok(())
}

/// A sealed program that sets its own limit of core dumps, and has said what it found.
fn with_core_limit(bytes: &str) -> Result<Running> {
    let mut command = asked_for_token(probe::path("probe-static")?);
    let (sealed, found) = report(command.args(["--core-limit", bytes, "--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    Ok(sealed)
}

/// The secret backwards: forwards it is in nobody's memory but the target's.
fn backwards() -> String {
    SECRET.chars().rev().collect()
}

/// Runs an attack to its end and gives its lines.
fn lines(command: &mut Command) -> Result<Vec<Value>> {
    let text = run(command.stderr(Stdio::inherit()))?;
    println!("{text}");
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
