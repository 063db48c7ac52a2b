//! What happens to a program, and to its number, while it is held and after it is gone.

pub mod numbers;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::{self, Running, by_a_shell, state, until, waits_for_agent};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    numbers::register(registry)
        .test("races::killed_while_held", killed_while_held)
        .test("races::continued_while_held", continued_while_held)
        .test("races::a_signal_while_held", a_signal_while_held)
        .test(
            "races::a_sealed_program_becomes_another",
            a_sealed_program_becomes_another,
        )
        .test(
            "races::a_sealed_program_becomes_nobodys",
            a_sealed_program_becomes_nobodys,
        )
        .test(
            "races::a_wrapper_of_the_same_name",
            a_wrapper_of_the_same_name,
        )
        .test(
            "races::a_launcher_that_executes_itself",
            a_launcher_that_executes_itself,
        )
        .test("races::threads_that_end_at_once", threads_that_end_at_once)
        .test("races::a_thread_that_execs", a_thread_that_execs)
        .test("races::an_exec_that_fails", an_exec_that_fails)
        .test(
            "races::a_script_that_turns_into_the_program",
            a_script_that_turns_into_the_program,
        )
}

/// Path and digest are right when the agent looks; what runs is the interpreter of what was there before.
fn a_script_that_turns_into_the_program() -> Result<()> {
    const TRIES: usize = 8;
    let scratch = Scratch::new()?;
    let evil = scratch.probe("probe-static", "evil")?;
    let slow = scratch.probe("probe-static", "slow")?;
    fs::OpenOptions::new()
        .append(true)
        .open(&slow)?
        .set_len(64 << 20)?;
    let genuine = [
        fs::read(probe::path("probe-rust")?)?,
        b"#!/bin/sh\nexit 0\n".to_vec(),
    ];
    for (number, bytes) in genuine.into_iter().enumerate() {
        let wanted = scratch.file(format!("wanted-{number}"), &bytes)?;
        let digest = process::run(Command::new("sha256sum").arg(wanted))?;
        let digest = digest.split_whitespace().next().context("no digest")?;
        let program = scratch.program(
            format!("program-{number}"),
            format!("#!{}\n", evil.display()),
        )?;
        let path = program.to_str().context("not UTF-8")?;
        let config = Config::token_for("slow").selector("sha256", "0".repeat(64));
        let config = config.and_seal(path).selector("sha256", digest);
        let config = config.value("TOKEN", "hunter2").policy("holdTimeout", "1m");
        let mut agent = Agent::run(&config)?;
        // Whose digest keeps the agent busy: the other stands behind its exec meanwhile, if it came second.
        let mut reasons = Vec::new();
        for _ in 0..TRIES {
            fs::write(&program, format!("#!{}\n", evil.display()))?;
            let _first = held(&agent, &mut asked_for_token(&slow))?;
            let mut probe = held(&agent, &mut asked_for_token(&program))?;
            agent.signal(Signal::SIGCONT)?;
            let runs = format!("/proc/{}/exe", probe.pid());
            // (or was refused before we looked)
            until("it has executed", SOON, || {
                fs::read_link(&runs).is_ok_and(|file| file == evil)
                    || state(probe.pid()) == Some('Z')
            })?;
            fs::write(&program, &bytes)?;
            reasons.push(agent.refusal(probe.pid())?);
            ensure!(probe.wait(SOON)?.signal() == Some(9));
            if reasons
                .iter()
                .any(|reason| reason.contains("not the interpreter"))
            {
                break;
            }
        }
        ensure!(
            reasons
                .iter()
                .any(|reason| reason.contains("not the interpreter")),
            "{reasons:?}"
        );
    }
    Ok(())
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// Stops the agent, starts a program and waits until it is held.
fn held(agent: &Agent, command: &mut Command) -> Result<Running> {
    agent.signal(Signal::SIGSTOP)?;
    until("the agent stops", SOON, || state(agent.pid()) == Some('T'))?;
    let probe = process::spawn(&mut by_a_shell(command))?;
    until("it is held", SOON, || waits_for_agent(probe.pid()))?;
    Ok(probe)
}

fn killed_while_held() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut probe = held(&agent, &mut target()?)?;
    probe.signal(Signal::SIGKILL)?;
    ensure!(probe.wait(SOON)?.signal() == Some(9));
    agent.signal(Signal::SIGCONT)?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(
        !events
            .iter()
            .any(|event| event["type"] == "SEALED" && event["pid"] == probe.pid())
    );
    Ok(())
}

/// Nobody makes it run by a signal: it is not stopped by one.
fn continued_while_held() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut probe = held(&agent, target()?.args(["--sleep", "600"]))?;
    for _ in 0..20 {
        probe.signal(Signal::SIGCONT)?;
        thread::sleep(Duration::from_millis(5));
    }
    ensure!(waits_for_agent(probe.pid()));
    agent.signal(Signal::SIGCONT)?;
    ensure_both(&probe.json(SOON)?, "hunter2")?;
    agent.event("SEALED", probe.pid()).map(drop)
}

/// It takes effect, as it would have without us.
fn a_signal_while_held() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut probe = held(&agent, target()?.args(["--sleep", "600"]))?;
    probe.signal(Signal::SIGTERM)?;
    agent.signal(Signal::SIGCONT)?;
    ensure!(probe.wait(SOON)?.signal() == Some(15));
    Ok(())
}

/// A program that has its secret and then executes `probe-rust`, which stays.
fn given_then_another() -> Result<Running> {
    let mut command = target()?;
    command.arg("--exec").arg(probe::path("probe-rust")?);
    command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
    let (probe, first) = report(&mut command)?;
    ensure_both(&first, "hunter2")?;
    Ok(probe)
}

fn a_sealed_program_becomes_another() -> Result<()> {
    let config = Config::token_for("probe-static")
        .and_seal("probe-rust")
        .value("TOKEN", "of the second");
    let mut agent = Agent::run(&config)?;
    let mut probe = given_then_another()?;
    ensure_both(&probe.json(SOON)?, "of the second")?;
    let pid = probe.pid();
    agent.wait_for(
        |event| event["type"] == "SEALED" && event["process"] == "probe-rust",
        SOON,
    )?;
    drop(probe);
    let folder = format!("/run/kernelseal/secrets/{pid}");
    until("both folders go", SOON, || !Path::new(&folder).exists())
}

/// It is held for its name, and no binding is about it: what it was given before is in its environment still, and guarded.
fn a_sealed_program_becomes_nobodys() -> Result<()> {
    for policy in ["deny", "allow"] {
        let config = Config::token_for("probe-static")
            .policy("onFailure", policy)
            .and_seal("probe-rust")
            .selector("uid", 4242)
            .value("TOKEN", "of the second");
        let mut agent = Agent::run(&config)?;
        let mut probe = given_then_another()?;
        ensure_both(&probe.json(SOON)?, "hunter2").context("of its tree still")?;
        let pid = probe.pid();
        for name in ["environ", "mem"] {
            let open = fs::File::open(format!("/proc/{pid}/{name}"));
            ensure!(open.is_err(), "{name} is open");
        }
        drop(probe);
        agent.event("EXITED", pid)?;
        let folder = format!("/run/kernelseal/secrets/{pid}");
        until("its folder goes", SOON, || !Path::new(&folder).exists())?;
    }
    Ok(())
}

/// Waits for the event that tells that a program goes on under the seal it had, and looks at whether it does.
fn ensure_kept(agent: &mut Agent, pid: u32) -> Result<String> {
    let event = agent.event("REFUSED", pid)?;
    ensure!(event["action"] == "kept_seal", "{event}");
    for name in ["environ", "mem"] {
        let open = fs::File::open(format!("/proc/{pid}/{name}"));
        ensure!(open.is_err(), "{name} is open");
    }
    Ok(event["reason"].as_str().unwrap_or_default().to_owned())
}

/// As psql is in Debian, and what pyenv puts before python: a script that executes what it is named after.
fn a_wrapper_of_the_same_name() -> Result<()> {
    for policy in ["deny", "allow"] {
        let scratch = Scratch::new()?;
        let real = scratch.probe("probe-static", "real/app")?;
        let wrapper = scratch.program(
            "app",
            format!("#!/bin/sh\nexec {} \"$@\"\n", real.display()),
        )?;
        let path = wrapper.to_str().context("not UTF-8")?;
        let mut agent = Agent::run(&Config::token_for(path).policy("onFailure", policy))?;
        let mut command = asked_for_token(&wrapper);
        let (probe, found) = report(command.args(["--sleep", "600"]))?;
        ensure_both(&found, "hunter2")?;
        let reason = ensure_kept(&mut agent, probe.pid())?;
        ensure!(reason.contains("does not match"), "{reason}");
        let pid = probe.pid();
        drop(probe);
        agent.event("EXITED", pid)?;
        let folder = format!("/run/kernelseal/secrets/{pid}");
        until("its folder goes", SOON, || !Path::new(&folder).exists())?;
        // The same file by itself is still a stranger.
        let stranger = report(&mut asked_for_token(&real));
        match (policy, stranger) {
            ("deny", stranger) => ensure!(stranger.is_err(), "it started"),
            (_, stranger) => ensure_none(&stranger?.1)?,
        }
    }
    Ok(())
}

/// As the launcher of a JDK does with musl: it sets a library path and executes itself.
fn a_launcher_that_executes_itself() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = r#"#!/bin/sh
[ "$LD_LIBRARY_PATH" ] || { LD_LIBRARY_PATH=/lib exec "$0"; }
echo "$TOKEN $(LD_LIBRARY_PATH= cat "$KERNELSEAL_SECRETS_DIR/TOKEN")"
exec sleep 600
"#;
    let launcher = scratch.program("launcher.sh", script)?;
    let mut agent = Agent::run(&Config::token_for("launcher.sh"))?;
    let mut running = process::spawn(&mut Command::new(launcher))?;
    let line = running.line(SOON)?;
    ensure!(line == "hunter2 hunter2", "{line}");
    let reason = ensure_kept(&mut agent, running.pid())?;
    ensure!(reason.contains("LD_LIBRARY_PATH"), "{reason}");
    Ok(())
}

/// All of a process's threads come to their end at the same time: it is one end, and a child of it keeps its files.
fn threads_that_end_at_once() -> Result<()> {
    const TIMES: usize = 12;
    let scratch = Scratch::new()?;
    let script = r#"#!/usr/bin/python3
import os, threading, time
for n in range(24):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if os.fork() == 0:
    time.sleep(0.3)
    print(open(os.environ["KERNELSEAL_SECRETS_DIR"] + "/TOKEN").read(), flush=True)
    os._exit(0)
os._exit(0)
"#;
    let program = scratch.program("threads.py", script)?;
    let mut agent = Agent::run(&Config::token_for("threads.py"))?;
    for _ in 0..TIMES {
        let mut running = process::spawn(&mut Command::new(&program))?;
        let line = running.line(SOON)?;
        ensure!(line == "hunter2", "{line}");
    }
    let ends = agent.events(Duration::from_millis(500))?.iter();
    let ends = ends.filter(|event| event["type"] == "EXITED").count();
    ensure!(ends == TIMES, "{ends} ends of {TIMES} programs");
    Ok(())
}

/// The kernel gives the thread its leader's number in the middle of the exec.
fn a_thread_that_execs() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let script = "import os, sys, threading\n\
        threading.Thread(target=os.execv, args=(sys.argv[1], sys.argv[1:])).start()\n";
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-c", script])
        .arg(probe::path("probe-static")?);
    command.args(["--env", "TOKEN", "--file", "TOKEN"]);
    ensure_both(&report(&mut command)?.1, "hunter2")
}

/// The kernel gives up after the hook: what it noted must not hold the next program.
fn an_exec_that_fails() -> Result<()> {
    let scratch = Scratch::new()?;
    let broken = scratch.program("probe-static", b"\x7fELF is not enough")?;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut shell = Command::new("sh");
    shell.args([OsStr::new("-c"), OsStr::new("exec \"$0\""), broken.as_ref()]);
    ensure!(
        !shell
            .stderr(std::process::Stdio::null())
            .status()?
            .success()
    );
    let script = format!("\"{}\" 2>/dev/null; exec \"$0\" \"$@\"", broken.display());
    let mut other = Command::new("sh");
    other.args(["-c", &script]).arg(probe::path("probe-rust")?);
    let (_, found): (_, Value) = report(other.args(["--env", "TOKEN", "--file", "TOKEN"]))?;
    ensure_none(&found)?;
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(!events.iter().any(|event| event["type"] == "SEALED"));
    Ok(())
}
