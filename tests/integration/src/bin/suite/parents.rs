//! Whoever starts a sealed program sees nothing of the hold: no stop, no SIGCHLD, no continuing. None of these parents
//! has a terminal.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe;
use kernelseal_integration::process::{self, Running, is_traced, stopped, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_mins(1);
const LONG: Duration = Duration::from_mins(4);
const TIMES: usize = 20;

/// How a parent looks at its children, as the fixture `parent` names it.
const LOOKS: [&str; 4] = ["wait", "handler", "signalfd", "sigwaitinfo"];
/// How it starts them.
const WAYS: [&str; 4] = ["fork", "vfork", "spawn", "thread"];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("parents::see_only_the_end", LONG, see_only_the_end)
        .slow_test(
            "parents::see_only_the_end_with_a_slow_agent",
            LONG,
            see_only_the_end_with_a_slow_agent,
        )
        .test(
            "parents::a_blocked_sigcont_is_not_left_pending",
            a_blocked_sigcont_is_not_left_pending,
        )
        .test(
            "parents::a_handled_sigcont_holds_nobody_up",
            a_handled_sigcont_holds_nobody_up,
        )
        .test(
            "parents::an_exec_that_fails_is_let_go",
            an_exec_that_fails_is_let_go,
        )
        .slow_test(
            "parents::many_with_a_slow_agent",
            LONG,
            many_with_a_slow_agent,
        )
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "1m"))
}

/// Starts a parent that starts the target so often.
fn parent(look: &str, way: &str, times: usize) -> Result<Running> {
    let mut parent = Command::new(probe::path("parent")?);
    parent
        .env_clear()
        .args([look, way, &times.to_string()])
        .arg(probe::path("probe-static")?)
        .args(["--env", "TOKEN", "--file", "TOKEN"]);
    process::spawn(&mut parent)
}

/// All children had their secrets and ended, and that was all there was to see.
fn ensure_unnoticed(parent: &mut Running, times: usize) -> Result<()> {
    for n in 0..times {
        let found = parent.json(SOON).with_context(|| format!("start {n}"))?;
        probe::ensure_both(&found, "hunter2").with_context(|| format!("start {n}"))?;
    }
    let saw = parent.line(SOON)?;
    ensure!(saw == format!("saw exited:0 {times}"), "it {saw}");
    Ok(())
}

fn see_only_the_end() -> Result<()> {
    let _agent = agent()?;
    for look in LOOKS {
        for way in WAYS {
            let mut parent = parent(look, way, TIMES)?;
            ensure_unnoticed(&mut parent, TIMES).with_context(|| format!("{look}, {way}"))?;
        }
    }
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    Ok(())
}

/// The same when the agent is paused for a second: nobody hangs.
fn see_only_the_end_with_a_slow_agent() -> Result<()> {
    let agent = agent()?;
    for look in LOOKS {
        agent.signal(Signal::SIGSTOP)?;
        let mut parents = Vec::new();
        for way in WAYS {
            parents.push((way, parent(look, way, 2)?));
        }
        thread::sleep(Duration::from_secs(1));
        ensure!(
            stopped()?.iter().all(|name| name.contains("kernelseal")),
            "{:?}",
            stopped()?
        );
        agent.signal(Signal::SIGCONT)?;
        for (way, parent) in &mut parents {
            ensure_unnoticed(parent, 2).with_context(|| format!("{look}, {way}"))?;
        }
    }
    Ok(())
}

/// What keeps a program waiting is not left behind for it.
fn a_blocked_sigcont_is_not_left_pending() -> Result<()> {
    let _agent = agent()?;
    for _ in 0..5 {
        let mut parent = Command::new(probe::path("parent")?);
        parent.env_clear().args(["wait", "blocked", "1"]);
        parent.arg(probe::path("probe-static")?);
        parent.args(["--env", "TOKEN", "--sleep", "600"]);
        let mut parent = process::spawn(&mut parent)?;
        let found = parent.json(SOON)?;
        ensure!(found["env"]["TOKEN"] == "hunter2", "{found}");
        let status = fs::read_to_string(format!("/proc/{}/status", found["pid"]))?;
        for pending in ["SigPnd", "ShdPnd"] {
            ensure!(
                status.contains(&format!("{pending}:\t0000000000000000\n")),
                "{status}"
            );
        }
        ensure!(status.contains("SigBlk:\t0000000000020000\n"), "{status}");
    }
    Ok(())
}

fn a_handled_sigcont_holds_nobody_up() -> Result<()> {
    let _agent = agent()?;
    let mut parent = parent("wait", "continued", TIMES)?;
    ensure_unnoticed(&mut parent, TIMES)
}

/// The first try has no interpreter, the second is what is sealed.
fn an_exec_that_fails_is_let_go() -> Result<()> {
    let folder = Scratch::new()?;
    let target = folder.probe("probe-static", "app")?;
    folder.program("app.failing", "#!/nowhere/interpreter\n")?;
    let config = Config::token_for("app").and_seal("app.failing");
    let _agent = Agent::run(&config.value("TOKEN", "hunter2"))?;
    let mut parent = Command::new(probe::path("parent")?);
    parent.env_clear().args(["wait", "failing", "20"]);
    parent
        .arg(target)
        .args(["--env", "TOKEN", "--file", "TOKEN"]);
    ensure_unnoticed(&mut process::spawn(&mut parent)?, TIMES)?;
    // One that has nothing else to execute ends, and its parent hears.
    let mut parent = Command::new(probe::path("parent")?);
    parent.env_clear().args(["wait", "fork", "20"]);
    parent.arg(folder.path().join("app.failing"));
    let saw = process::spawn(&mut parent)?.line(SOON)?;
    ensure!(saw == "saw exited:126 20", "{saw}");
    Ok(())
}

/// Many wait at once, and each waits for itself alone.
fn many_with_a_slow_agent() -> Result<()> {
    /// (each keeps a processor from the next)
    const MANY: usize = 20;
    let agent = Agent::run(&Config::token_for("probe-static").policy("holdTimeout", "4m"))?;
    let asks = ["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"];
    agent.signal(Signal::SIGSTOP)?;
    let all: Vec<_> = (0..MANY)
        .map(|_| -> Result<_> {
            let mut parent = Command::new(probe::path("parent")?);
            parent.env_clear().args(["wait", "fork", "1"]);
            process::spawn(parent.arg(probe::path("probe-static")?).args(asks))
        })
        .collect::<Result<_>>()?;
    thread::sleep(Duration::from_secs(1));
    agent.signal(Signal::SIGCONT)?;
    for mut parent in all {
        let found = parent.json(SOON)?;
        probe::ensure_both(&found, "hunter2")?;
        let pid = u32::try_from(found["pid"].as_u64().context("no pid")?)?;
        until("it is left alone", SOON, || is_traced(pid) == Some(false))?;
    }
    Ok(())
}
