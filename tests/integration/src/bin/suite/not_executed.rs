//! A watched program that the kernel does not execute: a shell, or the C library by one, runs a script without `#!` itself. It
//! runs as ever, and that it has no secrets is told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;

/// Longest that a program that is not held may take, in emulation; far from the deadline of those that are.
const AT_ONCE: Duration = Duration::from_secs(5);
const HOLD_TIMEOUT: &str = "1m";
const SOON: Duration = Duration::from_secs(20);
/// What is told of one that lives for a while, and of one that is over before anybody looks.
const SCRIPTS: [&str; 2] = [
    "echo \"$$ ${TOKEN-none}\"\nsleep 1\n",
    "echo \"$$ ${TOKEN-none}\"\n",
];
/// Executes a program as a shell does that interprets what the kernel does not execute, in the same process.
const INTERPRETING: &str = "import os, sys, time
try:
    os.execv(sys.argv[1], sys.argv[1:])
except OSError as e:
    print(os.getpid(), os.environ.get('TOKEN', 'none'), e.errno, flush=True)
    time.sleep(float(sys.argv[2]))
";
/// As `INTERPRETING` prints it.
const ENOEXEC: &str = "8";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("not_executed::by_a_shell", by_a_shell)
        .test("not_executed::by_execvp", by_execvp)
        .test("not_executed::in_the_same_process", in_the_same_process)
        .test(
            "not_executed::without_an_interpreter",
            without_an_interpreter,
        )
        .test(
            "not_executed::another_users_is_not_told",
            another_users_is_not_told,
        )
        .test(
            "not_executed::where_there_is_no_file",
            where_there_is_no_file,
        )
}

/// Executes a program as [`INTERPRETING`] does, which lives for so many seconds then.
fn interpreting(program: &Path, seconds: &str) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", INTERPRETING]).arg(program).arg(seconds);
    python
}

/// An agent that watches it by its path, or by its base name.
fn agents(program: &Path) -> Result<[Config; 2]> {
    let path = program.to_str().context("not UTF-8")?;
    let name = program.file_name().and_then(|name| name.to_str());
    let of = |binary: &str| Config::token_for(binary).policy("holdTimeout", HOLD_TIMEOUT);
    Ok([of(path), of(name.context("no name")?)])
}

/// It runs without secrets and at once, and an event says so.
fn ensure_told(agent: &mut Agent, command: &mut Command) -> Result<Vec<String>> {
    let begin = Instant::now();
    let mut running = spawn(command)?;
    let line = running.line(SOON)?;
    ensure!(
        begin.elapsed() < AT_ONCE,
        "it ran after {:?}",
        begin.elapsed()
    );
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    ensure!(words.len() >= 2 && words[1] == "none", "{line}");
    let event = agent.event("REFUSED", words[0].parse()?)?;
    ensure!(event["action"] == "goes_on", "{event}");
    ensure!(event["binding"] == "binding-0", "{event}");
    let reason = event["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("without #!") && reason.contains("#!/bin/sh"),
        "{event}"
    );
    let status = running.wait(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(words)
}

/// Has each script executed, with an agent of each kind.
fn each(execute: impl Fn(&mut Agent, &Path) -> Result<()>) -> Result<()> {
    for script in SCRIPTS {
        let folder = Scratch::new()?;
        let program = folder.program("shelled", script)?;
        for config in agents(&program)? {
            execute(&mut Agent::run(&config)?, &program)?;
        }
    }
    Ok(())
}

fn by_a_shell() -> Result<()> {
    each(|agent, program| {
        for way in ["\"$0\"; exit $?", "exec \"$0\""] {
            let mut shell = Command::new("sh");
            ensure_told(agent, shell.args(["-c", way]).arg(program))?;
        }
        Ok(())
    })
}

/// Which executes the shell for it.
fn by_execvp() -> Result<()> {
    each(|agent, program| ensure_told(agent, Command::new("env").arg(program)).map(drop))
}

fn in_the_same_process() -> Result<()> {
    let folder = Scratch::new()?;
    let program = folder.program("shelled", SCRIPTS[0])?;
    for config in agents(&program)? {
        let mut agent = Agent::run(&config)?;
        for seconds in ["1", "0"] {
            let words = ensure_told(&mut agent, &mut interpreting(&program, seconds))?;
            ensure!(words[2] == ENOEXEC, "{words:?}");
        }
    }
    Ok(())
}

fn without_an_interpreter() -> Result<()> {
    let folder = Scratch::new()?;
    let program = folder.program("shelled", "#!/no/such/interpreter\n")?;
    let mut agent = Agent::run(&agents(&program)?[0])?;
    let words = ensure_told(&mut agent, &mut interpreting(&program, "0"))?;
    ensure!(words[2] == "2", "{words:?}");
    Ok(())
}

fn another_users_is_not_told() -> Result<()> {
    let folder = Scratch::new()?;
    let program = folder.program("shelled", SCRIPTS[0])?;
    let config = agents(&program)?[1].clone().selector("uid", 1000);
    let mut agent = Agent::run(&config)?;
    let mut running = spawn(Command::new("sh").args(["-c", "\"$0\""]).arg(&program))?;
    ensure!(running.line(SOON)?.ends_with(" none"));
    ensure!(running.wait(SOON)?.success());
    let events = agent.events(Duration::from_millis(500))?;
    ensure!(
        !events.iter().any(|event| event["type"] == "REFUSED"),
        "{events:?}"
    );
    Ok(())
}

/// As a shell looks for a program in one folder after the other.
fn where_there_is_no_file() -> Result<()> {
    let folder = Scratch::new()?;
    let program = folder.join("shelled");
    let mut agent = Agent::run(&agents(&program)?[1])?;
    let mut running = spawn(&mut interpreting(&program, "0"))?;
    ensure!(running.line(SOON)?.ends_with(" none 2"));
    ensure!(running.wait(SOON)?.success());
    let events = agent.events(Duration::from_millis(500))?;
    ensure!(
        events.iter().all(|event| event["type"] == "AGENT"),
        "{events:?}"
    );
    Ok(())
}
