//! Only the program a binding means gets its secrets; who pretends to be it does not start.

mod scripts;
mod traced;

use std::fs::{self, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::{self, run, spawn};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

use crate::machine::kernel_version;

const SOON: Duration = Duration::from_secs(20);
/// The first kernel that asks a listener before the content of a file is there.
const ASKED_FIRST: (u32, u32) = (6, 14);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    traced::register(scripts::register(registry))
        .test("identity::the_file_at_the_path", the_file_at_the_path)
        .test("identity::a_link_to_the_path", a_link_to_the_path)
        .test("identity::an_impostor_elsewhere", an_impostor_elsewhere)
        .test("identity::the_digest", the_digest)
        .test("identity::another_digest", another_digest)
        .test("identity::writable_while_it_runs", writable_while_it_runs)
        .test("identity::the_user", the_user)
        .test("identity::the_cgroup", the_cgroup)
        .test("identity::ld_preload", || {
            with_variable("LD_PRELOAD", "/lib/evil.so")
        })
        .test("identity::ld_audit", || {
            with_variable("LD_AUDIT", "/lib/evil.so")
        })
        .test("identity::ld_library_path", || {
            with_variable("LD_LIBRARY_PATH", "/tmp")
        })
        .test("identity::gconv_path", || {
            with_variable("GCONV_PATH", "/tmp")
        })
        .test("identity::variables_of_interpreters", || {
            with_variable("JAVA_TOOL_OPTIONS", "-javaagent:/tmp/evil.jar")?;
            with_variable("BASH_FUNC_ls%%", "() { env; }")
        })
        .test(
            "identity::variables_that_are_allowed",
            variables_that_are_allowed,
        )
        .test(
            "identity::an_empty_ld_preload_is_none",
            an_empty_ld_preload_is_none,
        )
        .test("identity::one_binding_of_two", one_binding_of_two)
}

/// Starts a program that must be refused: it ends before its first instruction. Gives the reason.
fn refused(agent: &mut Agent, command: &mut Command) -> Result<String> {
    let mut probe = process::spawn(command)?;
    if let Ok(line) = probe.line(SOON) {
        bail!("it started and said {line}");
    }
    let status = probe.wait(SOON)?;
    ensure!(status.signal() == Some(9), "it ended with {status}");
    agent.refusal(probe.pid())
}

fn given(command: &mut Command) -> Result<Value> {
    Ok(report(command)?.1)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn the_file_at_the_path() -> Result<()> {
    let path = probe::path("probe-static")?;
    let _agent = Agent::run(&Config::token_for(text(&path)?))?;
    ensure_both(&given(&mut asked_for_token(&path))?, "hunter2")
}

fn a_link_to_the_path() -> Result<()> {
    let scratch = Scratch::new()?;
    let link = scratch.join("linked");
    let path = scratch.probe("probe-static", "real")?;
    std::os::unix::fs::symlink(&path, &link)?;
    let _agent = Agent::run(&Config::token_for(text(&link)?))?;
    ensure_both(&given(&mut asked_for_token(&link))?, "hunter2")
}

fn an_impostor_elsewhere() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = probe::path("probe-static")?;
    let impostor = scratch.probe("probe-static", "probe-static")?;
    let mut agent = Agent::run(&Config::token_for(text(&path)?))?;
    let reason = refused(&mut agent, &mut asked_for_token(&impostor))?;
    ensure!(
        reason.contains(text(&impostor)?) && reason.contains("binding-0"),
        "{reason}"
    );
    Ok(())
}

pub fn digest(path: &Path) -> Result<String> {
    let line = run(Command::new("sha256sum").arg(path))?;
    let digest = line.split_whitespace().next().context("no digest")?;
    Ok(digest.to_owned())
}

fn the_digest() -> Result<()> {
    let path = probe::path("probe-static")?;
    let wanted = digest(&path)?.to_uppercase();
    let _agent = Agent::run(&Config::token_for("probe-static").selector("sha256", wanted))?;
    ensure_both(&given(&mut asked_for_token(&path))?, "hunter2")
}

fn another_digest() -> Result<()> {
    let wanted = digest(&probe::path("probe-static-pie")?)?;
    let mut agent = Agent::run(&Config::token_for("probe-static").selector("sha256", wanted))?;
    let path = probe::path("probe-static")?;
    let reason = refused(&mut agent, &mut asked_for_token(&path))?;
    ensure!(reason.contains(&digest(&path)?), "{reason}");
    Ok(())
}

/// The kernel keeps writers from a program that runs, unless a listener is to fill it in first. Then its digest is that of
/// the moment.
fn writable_while_it_runs() -> Result<()> {
    // (a file system whose content a listener may be asked for)
    let scratch = Scratch::within("/ext4".as_ref())?;
    let path = scratch.probe("probe-static", "probe-static")?;
    let config = Config::token_for("probe-static");
    let with_digest = config.clone().selector("sha256", digest(&path)?);
    let mut listener = spawn(
        Command::new(probe::path("listener")?)
            .arg("answers")
            .arg(&path),
    )?;
    let said = listener.json(SOON)?;
    let is_asked = kernel_version()? >= ASKED_FIRST;
    let expected = if is_asked { 0 } else { libc::EINVAL };
    ensure!(said["errno"] == expected, "{said}");
    let opens = || OpenOptions::new().write(true).open(&path);

    let agent = Agent::run(&config)?;
    let (probe, found) = report(asked_for_token(&path).args(["--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    ensure!(opens().is_ok() == is_asked, "{:?}", opens());
    drop(probe);
    agent.stop()?;

    let mut agent = Agent::run(&with_digest)?;
    if is_asked {
        let reason = refused(&mut agent, &mut asked_for_token(&path))?;
        ensure!(reason.contains("can be written while it runs"), "{reason}");
        drop(listener);
    }
    let (_probe, found) = report(asked_for_token(&path).args(["--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    ensure!(
        opens().is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY)),
        "{:?}",
        opens()
    );
    Ok(())
}

fn the_user() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static").selector("uid", 1000))?;
    let path = probe::path("probe-static")?;
    ensure_both(&given(asked_for_token(&path).uid(1000))?, "hunter2")?;
    // Another user's program is none of our business: it starts, without.
    let (probe, found) = report(asked_for_token(&path).args(["--sleep", "600"]))?;
    ensure_none(&found)?;
    ensure!(fs::read(format!("/proc/{}/environ", probe.pid())).is_ok());
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(
        !events
            .iter()
            .any(|event| event["pid"] == probe.pid() && event["type"] != "EXEC")
    );
    Ok(())
}

/// A control group, gone with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// A command that enters it before it executes the probe.
    fn command(&self, probe: &str) -> Result<Command> {
        let path = probe::path(probe)?;
        let mut command = Command::new("sh");
        let script = "echo 0 > \"$0/cgroup.procs\"; exec \"$@\"";
        command.args(["-c", script]).arg(&self.0).arg(path);
        command.args(["--env", "TOKEN", "--file", "TOKEN"]);
        Ok(command)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can be removed only when nobody is in it; a failed test says why that is.
        let removed = process::until("cgroup empty", SOON, || fs::remove_dir(&self.0).is_ok());
        if let Err(error) = removed {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn the_cgroup() -> Result<()> {
    let _slice = Cgroup::new("app.slice")?;
    let inner = Cgroup::new("app.slice/inner")?;
    let neighbour = Cgroup::new("app.slice-not")?;
    let _agent =
        Agent::run(&Config::token_for("probe-static").selector("cgroupPath", "/app.slice"))?;
    ensure_both(&given(&mut inner.command("probe-static")?)?, "hunter2")?;
    ensure_none(&given(&mut neighbour.command("probe-static")?)?)?;
    ensure_none(&given(&mut asked_for_token(probe::path("probe-static")?))?)
}

fn with_variable(name: &str, value: &str) -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let reason = refused(&mut agent, command.env(name, value))?;
    let (known, _) = name.split_at(name.find("ls%%").unwrap_or(name.len()));
    ensure!(reason.contains(known), "{reason}");
    ensure!(reason.contains("allowVariables"), "{reason}");
    Ok(())
}

/// By all bindings that give the program something.
fn variables_that_are_allowed() -> Result<()> {
    let allowed = ["LD_LIBRARY_PATH", "PYTHONPATH"];
    let config = Config::token_for("probe-static").binding_key("allowVariables", json!(allowed));
    let start = || -> Result<Command> {
        let mut command = asked_for_token(probe::path("probe-static")?);
        command
            .env("LD_LIBRARY_PATH", "/tmp")
            .env("PYTHONPATH", "/tmp");
        Ok(command)
    };
    {
        let mut agent = Agent::run(&config)?;
        ensure_both(&given(&mut start()?)?, "hunter2")?;
        let reason = refused(&mut agent, start()?.env("LD_PRELOAD", "/lib/x.so"))?;
        ensure!(reason.contains("LD_PRELOAD"), "{reason}");
    }
    let mut agent = Agent::run(&config.and_seal("probe-static").value("OTHER", "x"))?;
    let reason = refused(&mut agent, &mut start()?)?;
    ensure!(reason.contains("LD_LIBRARY_PATH"), "{reason}");
    Ok(())
}

fn an_empty_ld_preload_is_none() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    ensure_both(&given(command.env("LD_PRELOAD", ""))?, "hunter2")
}

fn one_binding_of_two() -> Result<()> {
    let wrong = "0".repeat(64);
    let config = Config::token_for("probe-static")
        .and_seal("probe-static")
        .selector("sha256", wrong)
        .value("OTHER", "for another file");
    let _agent = Agent::run(&config)?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let found = given(command.args(["--env", "OTHER"]))?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["env"]["OTHER"].is_null(), "{found}");
    Ok(())
}
