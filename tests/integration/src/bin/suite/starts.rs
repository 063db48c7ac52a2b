//! Many starts: one after another, all at once, by hand in a shell.

use std::collections::HashSet;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{self, Running, is_traced, run, stopped, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_mins(4);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("starts::one_after_another", LONG, one_after_another)
        .slow_test("starts::all_at_once", LONG, all_at_once)
        .slow_test("starts::five_hundred_at_once", LONG, five_hundred_at_once)
        .slow_test("starts::by_hand_in_a_shell", LONG, by_hand_in_a_shell)
        .test(
            "starts::in_a_shell_with_a_slow_agent",
            in_a_shell_with_a_slow_agent,
        )
        .test(
            "starts::in_a_shell_without_an_agent",
            in_a_shell_without_an_agent,
        )
        .test(
            "starts::in_a_shell_without_an_interpreter",
            in_a_shell_without_an_interpreter,
        )
        .test(
            "starts::in_a_shell_by_another_thread",
            in_a_shell_by_another_thread,
        )
        .test(
            "starts::in_a_shell_by_two_threads",
            in_a_shell_by_two_threads,
        )
        .test(
            "starts::something_else_in_a_shell",
            something_else_in_a_shell,
        )
        .test(
            "starts::in_a_shell_at_the_second_try",
            in_a_shell_at_the_second_try,
        )
        .test(
            "starts::in_a_shell_that_is_interrupted",
            in_a_shell_that_is_interrupted,
        )
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
    const TIMES: usize = 40;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut terminal = shell()?;
    let line = format!("{}; echo end $((40+2))", asks_for_token()?);
    for n in 1..=TIMES {
        terminal.type_line(&line, "end 42", n)?;
    }
    ensure_told(&terminal, TIMES)?;
    let events = agent.events(Duration::from_millis(300))?;
    let execs = |kind| events.iter().filter(|event| event["type"] == kind).count();
    ensure!(execs("SEALED") == TIMES && execs("EXITED") == TIMES);
    Ok(())
}

/// However late the agent is: nothing of the program runs before, and no shell hears of the wait.
fn in_a_shell_with_a_slow_agent() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))?;
    let mut terminal = shell()?;
    let line = format!("{}; echo end $((40+2))", asks_for_token()?);
    for n in 1..=3 {
        agent.signal(Signal::SIGSTOP)?;
        terminal.type_keys(&format!("{line}\n"))?;
        thread::sleep(Duration::from_millis(500));
        ensure_told(&terminal, n - 1)?;
        agent.signal(Signal::SIGCONT)?;
        terminal.shows("end 42", n)?;
        ensure_told(&terminal, n)?;
    }
    Ok(())
}

/// What a shell then does itself: the agent sees the exec fail, and is out of the way.
fn in_a_shell_without_an_interpreter() -> Result<()> {
    let folder = Scratch::new()?;
    let script = folder.program("scripted", "echo script $((40+2))\n")?;
    let mut agent = Agent::run(&Config::token_for("scripted"))?;
    let mut terminal = shell()?;
    for n in 1..=5 {
        terminal.type_line(&script.display().to_string(), "script 42", n)?;
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    let events = agent.events(Duration::from_millis(300))?;
    let goes_on = events.iter().filter(|event| event["action"] == "goes_on");
    ensure!(goes_on.count() == 5, "{events:?}");
    let is_another =
        |event: &&serde_json::Value| event["type"] != "AGENT" && event["action"] != "goes_on";
    ensure!(!events.iter().any(|event| is_another(&event)), "{events:?}");
    Ok(())
}

/// The first program of that name in PATH has no interpreter, and the next is executed at once.
fn in_a_shell_at_the_second_try() -> Result<()> {
    const TIMES: usize = 20;
    let folder = Scratch::new()?;
    folder.program("one/probe-static", "#!/nowhere/interpreter\n")?;
    folder.probe("probe-static", "two/probe-static")?;
    let _agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))?;
    let mut terminal = shell()?;
    let at = folder.path().display();
    let line = format!(
        "/usr/bin/env PATH={at}/one:{at}/two probe-static --env TOKEN --file TOKEN; echo end $((40+2))"
    );
    for n in 1..=TIMES {
        terminal.type_line(&line, "end 42", n)?;
        let screen = terminal.screen();
        let told =
            screen.matches(r#""env":{"TOKEN":"hunter2"},"files":{"TOKEN":{"content":"hunter2"}}"#);
        ensure!(told.count() == n && !screen.contains("Stopped"), "{screen}");
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    Ok(())
}

/// Interrupted while it waits for the agent, it is gone, and the shell goes on.
fn in_a_shell_that_is_interrupted() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))?;
    let mut terminal = shell()?;
    let line = format!("{}; echo end $((40+2))", asks_for_token()?);
    agent.signal(Signal::SIGSTOP)?;
    terminal.type_keys(&format!("{line}\n"))?;
    thread::sleep(Duration::from_millis(200));
    terminal.type_keys("\x03")?;
    terminal.type_line("echo alive $((2+3))", "alive 5", 1)?;
    agent.signal(Signal::SIGCONT)?;
    ensure_told(&terminal, 0)?;
    terminal.type_line(&line, "end 42", 1)?;
    ensure_told(&terminal, 1)?;
    let events = agent.events(Duration::from_millis(300))?;
    let sealed = events.iter().filter(|event| event["type"] == "SEALED");
    ensure!(sealed.count() == 1, "{events:?}");
    Ok(())
}

/// An agent that does not come in time, or is killed, has the program refused, or started without.
fn in_a_shell_without_an_agent() -> Result<()> {
    // (who is first: the kernel side, which refuses the exec, or the guardian, which ends its process)
    for (on_failure, outcomes) in [
        ("deny", ["Operation not permitted", "Killed"].as_slice()),
        ("allow", &[r#""env":{"TOKEN":null}"#]),
    ] {
        let config = Config::token_for("probe-static").policy("onFailure", on_failure);
        let agent = Agent::run(&config.policy("holdTimeout", "1m"))?;
        let mut terminal = shell()?;
        agent.signal(Signal::SIGSTOP)?;
        let line = format!("{}; echo end $((40+2))", asks_for_token()?);
        terminal.type_keys(&format!("{line}\n"))?;
        thread::sleep(Duration::from_millis(200));
        agent.kill()?;
        terminal.shows("end 42", 1)?;
        until("refused, or let go", SOON, || {
            let screen = terminal.screen();
            outcomes.iter().any(|outcome| screen.contains(outcome))
        })?;
    }
    Ok(())
}

/// While it waits for the agent, a handler of a signal executes something else: nobody's program gets nothing, and another's
/// its own.
fn something_else_in_a_shell() -> Result<()> {
    let folder = Scratch::new()?;
    let config = Config::token_for("probe-static")
        .and_seal("two")
        .value("TOKEN", "other");
    let mut agent = Agent::run(&config.policy("holdTimeout", "1m"))?;
    let mut going_on = Vec::new();
    for (name, found) in [("one", "null"), ("two", r#""other""#)] {
        agent.signal(Signal::SIGSTOP)?;
        let mut turncoat = Command::new(probe::path("turncoat")?);
        turncoat.arg(probe::path("probe-static")?);
        turncoat.arg(folder.probe("probe-static", name)?);
        let asks = ["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"];
        let terminal = Terminal::open(turncoat.env_clear().args(asks))?;
        thread::sleep(Duration::from_millis(500));
        ensure!(terminal.screen().is_empty(), "{}", terminal.screen());
        kill(Pid::from_raw(terminal.pid().cast_signed()), Signal::SIGUSR1)?;
        thread::sleep(Duration::from_millis(500));
        agent.signal(Signal::SIGCONT)?;
        terminal.shows(&format!(r#""env":{{"TOKEN":{found}}}"#), 1)?;
        ensure!(
            !terminal.screen().contains("hunter2"),
            "{}",
            terminal.screen()
        );
        going_on.push(terminal);
    }
    until("both are left alone", SOON, || {
        let mut all = going_on.iter();
        all.all(|terminal| is_traced(terminal.pid()) == Some(false))
    })?;
    let events = agent.events(Duration::from_millis(300))?.iter();
    let sealed: Vec<_> = events.filter(|event| event["type"] == "SEALED").collect();
    ensure!(
        sealed.len() == 1 && sealed[0]["process"] == "two",
        "{sealed:?}"
    );
    Ok(())
}

/// A thread that is not its process's first executes it: it has another number before and after. It is stopped, as
/// without a terminal, of which the shell may hear.
fn in_a_shell_by_another_thread() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut terminal = shell()?;
    let script = threads("time.sleep(60)")?;
    terminal.type_keys(&format!("{script}\n"))?;
    terminal.shows(r#""env":{"TOKEN":"hunter2"}"#, 1)
}

/// Both do, while the agent is away: one is begun, with its secrets, or none.
fn in_a_shell_by_two_threads() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))?;
    let mut terminal = shell()?;
    let script = threads("go()")?;
    for n in 1..=5 {
        agent.signal(Signal::SIGSTOP)?;
        terminal.type_keys(&format!("{script}; echo end $((40+2))\n"))?;
        thread::sleep(Duration::from_secs(1));
        agent.signal(Signal::SIGCONT)?;
        terminal.shows("end 42", n)?;
        let screen = terminal.screen();
        let told = |text: &str| screen.matches(text).count();
        let (begun, given) = (
            told(r#""env":{"TOKEN":"#),
            told(r#""env":{"TOKEN":"hunter2"}"#),
        );
        ensure!(begun == given && begun <= n, "{screen}");
    }
    until("nothing is stopped", SOON, || {
        stopped().is_ok_and(|stopped| stopped.is_empty())
    })
}

/// To be typed: a program whose second thread executes the target, and whose first does something else.
fn threads(first: &str) -> Result<String> {
    let target = asks_for_token()?;
    let arguments: Vec<String> = target.split(' ').map(|word| format!("'{word}'")).collect();
    let arguments = arguments.join(",");
    Ok(format!(
        r#"python3 -c "import os,threading,time
def go():
  os.execv([{arguments}][0],[{arguments}])
threading.Thread(target=go).start()
{first}""#
    ))
}

fn shell() -> Result<Terminal> {
    let mut shell = Command::new("sh");
    shell
        .arg("-i")
        .env("PS1", "$ ")
        .env("PATH", "/usr/bin:/bin");
    Terminal::open(&mut shell)
}

/// To be typed.
fn asks_for_token() -> Result<String> {
    let program = probe::path("probe-static")?;
    Ok(format!("{} --env TOKEN --file TOKEN", program.display()))
}

/// The program has begun so often, each time with its secrets, and was never seen stopped.
fn ensure_told(terminal: &Terminal, times: usize) -> Result<()> {
    let screen = terminal.screen();
    ensure!(!screen.contains("Stopped"), "{screen}");
    for told in [
        r#""env":{"TOKEN":"#,
        r#""env":{"TOKEN":"hunter2"}"#,
        r#""files":{"TOKEN":{"content":"hunter2"}}"#,
        r#""auxv_ok":true,"rsp_aligned":true,"stack_ok":true"#,
    ] {
        let found = screen.matches(told).count();
        ensure!(
            found == times,
            "{told} {found} times, not {times}: {screen}"
        );
    }
    Ok(())
}
