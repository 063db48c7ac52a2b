//! Many starts: one after another, all at once, by hand in a shell.

use std::collections::HashSet;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{self, Running, run, stopped};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::terminal::Terminal;

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(4);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("starts::one_after_another", LONG, one_after_another)
        .slow_test("starts::all_at_once", LONG, all_at_once)
        .slow_test("starts::five_hundred_at_once", LONG, five_hundred_at_once)
        .slow_test("starts::by_hand_in_a_shell", LONG, by_hand_in_a_shell)
        .slow_test("starts::children_of_many", LONG, children_of_many)
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

fn one_after_another() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    for n in 0..500 {
        let (mut probe, found) = report(&mut target()?).with_context(|| format!("start {n}"))?;
        ensure_both(&found, "hunter2").with_context(|| format!("start {n}"))?;
        ensure!(probe.wait(SOON)?.success());
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    Ok(())
}

/// Starts so many from two threads without waiting for any, then looks at each.
fn at_once(number: usize) -> Result<()> {
    let config = Config::token_for("probe-static").policy("holdTimeout", "1m");
    let mut agent = Agent::run(&config)?;
    let start = || -> Result<Vec<Running>> {
        (0..number / 2)
            .map(|_| process::spawn(target()?.args(["--sleep", "600"])))
            .collect()
    };
    let mut all = thread::scope(|scope| -> Result<_> {
        let other = scope.spawn(start);
        let mut all = start()?;
        all.extend(other.join().expect("starting does not panic")?);
        Ok(all)
    })?;
    for probe in &mut all {
        let found = probe.json(Duration::from_mins(1))?;
        if let Err(error) = ensure_both(&found, "hunter2") {
            let events = agent.events(Duration::from_millis(500))?.iter();
            let told: Vec<_> = events.filter(|event| event["pid"] == probe.pid()).collect();
            return Err(error.context(format!("{told:?} was told of it")));
        }
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    let wanted: HashSet<u64> = all.iter().map(|probe| u64::from(probe.pid())).collect();
    let events = agent.events(Duration::from_millis(500))?;
    let told: HashSet<u64> = events
        .iter()
        .filter(|event| event["type"] == "SEALED")
        .filter_map(|event| event["pid"].as_u64())
        .collect();
    ensure!(told == wanted, "{} of {} told", told.len(), wanted.len());
    Ok(())
}

fn all_at_once() -> Result<()> {
    at_once(200)
}

fn five_hundred_at_once() -> Result<()> {
    at_once(500)
}

/// The files are there for children, too, time after time.
fn children_of_many() -> Result<()> {
    let scratch = Scratch::new()?;
    let body = "#!/bin/sh\necho $(cat $KERNELSEAL_SECRETS_DIR/TOKEN; true | cat $KERNELSEAL_SECRETS_DIR/TOKEN)\n";
    let script = scratch.program("app.sh", body)?;
    for n in 0..10 {
        let _agent = Agent::run(&Config::token_for("app.sh"))?;
        for m in 0..20 {
            let text = run(&mut Command::new(&script))?;
            ensure!(
                text == "hunter2hunter2\n",
                "start {m} of agent {n}: {text:?}"
            );
        }
    }
    Ok(())
}

/// As with `kubectl exec -it`: the shell must not see its job stop, and must not lose the foreground.
fn by_hand_in_a_shell() -> Result<()> {
    const TIMES: usize = 20;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut shell = Command::new("sh");
    shell
        .arg("-i")
        .env("PS1", "$ ")
        .env("PATH", "/usr/bin:/bin");
    let mut terminal = Terminal::open(&mut shell)?;
    let program = probe::path("probe-static")?;
    let line = format!(
        "{} --env TOKEN --file TOKEN --sleep 1; echo end $((40+2))",
        program.display()
    );
    for n in 1..=TIMES {
        terminal.type_line(&line, "end 42", n)?;
    }
    // On a busy machine one may have begun before the agent was there, and started over: it says so
    // twice, the second time with its secrets. Hence the second that each stays.
    let screen = terminal.screen();
    ensure!(!screen.contains("Stopped"), "{screen}");
    let variables = screen.matches(r#""env":{"TOKEN":"hunter2"}"#).count();
    let files = screen
        .matches(r#""files":{"TOKEN":{"content":"hunter2"}}"#)
        .count();
    ensure!(
        (variables, files) == (TIMES, TIMES),
        "{variables} {files} {screen}"
    );
    ensure!(
        screen
            .matches(r#""auxv_ok":true,"rsp_aligned":true,"stack_ok":true"#)
            .count()
            >= TIMES
    );
    let events = agent.events(Duration::from_millis(300))?;
    let execs = |kind| events.iter().filter(|event| event["type"] == kind).count();
    ensure!(execs("SEALED") == TIMES && execs("EXITED") == TIMES);
    Ok(())
}
