//! Only the program a binding means gets its secrets; who pretends to be it does not start.

use std::fs::{self, File, OpenOptions};
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
use nix::mount::{MsFlags, mount, umount};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::machine::kernel_version;

const SOON: Duration = Duration::from_secs(20);
/// The first kernel that asks a listener before the content of a file is there.
const ASKED_FIRST: (u32, u32) = (6, 14);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("identity::the_file_at_the_path", the_file_at_the_path)
        .test("identity::a_link_to_the_path", a_link_to_the_path)
        .test("identity::an_impostor_elsewhere", an_impostor_elsewhere)
        .test("identity::a_script_of_the_name", a_script_of_the_name)
        .test(
            "identity::an_interpreter_of_somebodys_choice",
            an_interpreter_of_somebodys_choice,
        )
        .test("identity::a_scripts_script", a_scripts_script)
        .test("identity::a_script_at_the_path", a_script_at_the_path)
        .test("identity::the_digest", the_digest)
        .test("identity::another_digest", another_digest)
        .test("identity::writable_while_it_runs", writable_while_it_runs)
        .test(
            "identity::a_scripts_digest_is_the_scripts",
            a_scripts_digest_is_the_scripts,
        )
        .test(
            "identity::a_changed_script_has_another_digest",
            a_changed_script_has_another_digest,
        )
        .test(
            "identity::a_script_elsewhere_than_in_the_working_directory",
            a_script_elsewhere_than_in_the_working_directory,
        )
        .test(
            "identity::a_script_on_layers_of_two_file_systems",
            a_script_on_layers_of_two_file_systems,
        )
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
        .test("identity::a_traced_program", a_traced_program)
        .test(
            "identity::a_traced_program_may_start_without",
            a_traced_program_may_start_without,
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

fn a_script_of_the_name() -> Result<()> {
    let scratch = Scratch::new()?;
    let script = scratch.program("probe-static", "#!/bin/sh\necho \"$TOKEN\"\n")?;
    let mut agent = Agent::run(&Config::token_for(text(&probe::path("probe-static")?)?))?;
    refused(&mut agent, &mut asked_for_token(&script))?;
    Ok(())
}

fn a_script_at_the_path() -> Result<()> {
    let path = probe::path("probe.sh")?;
    let _agent = Agent::run(&Config::token_for(text(&path)?))?;
    ensure_both(&given(&mut asked_for_token(&path))?, "hunter2")
}

/// `binfmt_misc` gives any file to a program of the one who mounts it.
fn an_interpreter_of_somebodys_choice() -> Result<()> {
    let scratch = Scratch::new()?;
    let target = scratch.probe("probe-static", "app.of-ours")?;
    let body = r#"echo "{\"env\":{\"TOKEN\":\"$TOKEN\"}}""#;
    let thief = scratch.program("thief.sh", format!("#!/bin/sh\n{body}\n"))?;
    let _rule = Rule::new("of-ours", &thief)?;
    let by_name = Config::token_for("app.of-ours");
    let by_path = Config::token_for(text(&target)?);
    let by_digest = by_name.clone().selector("sha256", digest(&target)?);
    let by_both = by_path.clone().selector("sha256", digest(&target)?);
    for config in [by_path, by_digest, by_both] {
        let mut agent = Agent::run(&config)?;
        let reason = refused(&mut agent, &mut asked_for_token(&target))?;
        ensure!(reason.contains("which is not the interpreter"), "{reason}");
    }
    // Of a script, too: the thief has the interpreter that its first line names.
    let script = scratch.program("script.of-ours", "#!/bin/sh\necho {}\n")?;
    let by_path = Config::token_for(text(&script)?);
    let by_both = by_path.clone().selector("sha256", digest(&script)?);
    for config in [by_path, by_both] {
        let mut agent = Agent::run(&config)?;
        let reason = refused(&mut agent, &mut asked_for_token(&script))?;
        ensure!(reason.contains("which is not the interpreter"), "{reason}");
    }
    // A name is only a name.
    let _agent = Agent::run(&by_name)?;
    let (_, found) = report(&mut asked_for_token(&target))?;
    ensure!(found["env"]["TOKEN"] == "hunter2", "{found}");
    Ok(())
}

/// A script's interpreter may be a script.
fn a_scripts_script() -> Result<()> {
    let scratch = Scratch::new()?;
    let shell = probe::path("probe.sh")?;
    let inner = scratch.program(
        "inner.sh",
        format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", shell.display()),
    )?;
    let outer = scratch.program("outer.sh", format!("#!{}\n", inner.display()))?;
    let with_argument = scratch.program("argument.sh", "#! /bin/sh  -e \t\necho ready\n")?;
    let agent = Agent::run(&Config::token_for(text(&with_argument)?))?;
    ensure!(run(&mut asked_for_token(&with_argument))? == "ready\n");
    agent.stop()?;
    for config in [
        Config::token_for(text(&outer)?),
        Config::token_for("outer.sh").selector("sha256", digest(&outer)?),
    ] {
        let _agent = Agent::run(&config)?;
        ensure_both(&given(&mut asked_for_token(&outer))?, "hunter2")?;
    }
    Ok(())
}

/// A rule of `binfmt_misc`, with a mount of it.
struct Rule(&'static str);

impl Rule {
    const FOLDER: &str = "/proc/sys/fs/binfmt_misc";

    /// Has files whose name ends so run by a program.
    fn new(ending: &'static str, program: &Path) -> Result<Self> {
        let kind = Some("binfmt_misc");
        mount(kind, Self::FOLDER, kind, MsFlags::empty(), None::<&str>)
            .context("no binfmt_misc: is its module loaded?")?;
        let rule = Self(ending);
        let text = format!(":{ending}:E::{ending}::{}:", program.display());
        fs::write(format!("{}/register", Self::FOLDER), text)?;
        Ok(rule)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/{}", Self::FOLDER, self.0), "-1");
        let _ = umount(Self::FOLDER);
    }
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

fn a_scripts_digest_is_the_scripts() -> Result<()> {
    let path = probe::path("probe.sh")?;
    let _agent = Agent::run(&Config::token_for("probe.sh").selector("sha256", digest(&path)?))?;
    ensure_both(&given(&mut asked_for_token(&path))?, "hunter2")
}

/// The interpreter is the same for every script: its digest says nothing about the script.
fn a_changed_script_has_another_digest() -> Result<()> {
    let scratch = Scratch::new()?;
    let shell = fs::canonicalize("/bin/sh")?;
    let changed = scratch.program("probe.sh", "#!/bin/sh\necho \"changed $TOKEN\"\n")?;
    let digests = [digest(&probe::path("probe.sh")?)?, digest(&shell)?];
    for wanted in digests {
        let mut agent = Agent::run(&Config::token_for("probe.sh").selector("sha256", wanted))?;
        refused(&mut agent, &mut asked_for_token(&changed))?;
    }
    Ok(())
}

/// `../bin/run.sh`, and a link in the working directory that leads out of it: by base name and digest.
fn a_script_elsewhere_than_in_the_working_directory() -> Result<()> {
    let scratch = Scratch::new()?;
    let content = fs::read(probe::path("probe.sh")?)?;
    let script = scratch.program("bin/run.sh", content)?;
    fs::create_dir(scratch.join("here"))?;
    std::os::unix::fs::symlink("../bin/run.sh", scratch.join("here/near.sh"))?;
    std::os::unix::fs::symlink(&script, scratch.join("here/far.sh"))?;
    let _agent = Agent::run(&Config::token_for("run.sh").selector("sha256", digest(&script)?))?;
    for path in ["../bin/run.sh", "near.sh", "./far.sh", "../here/near.sh"] {
        let command = format!("cd {}; exec \"$@\"", scratch.join("here").display());
        let path = if path.contains('/') {
            path.to_owned()
        } else {
            format!("./{path}")
        };
        let mut shell = Command::new("/bin/sh");
        shell.args([
            "-c", &command, "sh", &path, "--env", "TOKEN", "--file", "TOKEN",
        ]);
        shell.env_clear().env("PATH", "/usr/bin:/bin");
        let found = given(&mut shell).with_context(|| path.clone())?;
        ensure_both(&found, "hunter2").with_context(|| path.clone())?;
    }
    Ok(())
}

/// There `stat` tells another device than the kernel has, as on btrfs.
fn a_script_on_layers_of_two_file_systems() -> Result<()> {
    let lower = Scratch::within(Path::new("/ext4"))?;
    let scratch = Scratch::new()?;
    let content = fs::read(probe::path("probe.sh")?)?;
    lower.program("probe.sh", &content)?;
    lower.program("impostor/probe.sh", &content)?;
    for folder in ["upper", "work", "merged"] {
        fs::create_dir(scratch.join(folder))?;
    }
    let options = format!(
        "xino=off,lowerdir={},upperdir={},workdir={}",
        lower.path().display(),
        scratch.join("upper").display(),
        scratch.join("work").display()
    );
    let merged = scratch.join("merged");
    let mounted = nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        nix::mount::MsFlags::empty(),
        Some(options.as_str()),
    );
    mounted.context("an overlay")?;
    let script = merged.join("probe.sh");
    let in_turn = || -> Result<()> {
        for config in [
            Config::token_for(text(&script)?),
            Config::token_for(text(&script)?).selector("sha256", digest(&script)?),
            Config::token_for("probe.sh").selector("sha256", digest(&script)?),
        ] {
            let _agent = Agent::run(&config)?;
            ensure_both(&given(&mut asked_for_token(&script))?, "hunter2")?;
        }
        let mut agent = Agent::run(&Config::token_for(text(&script)?))?;
        let impostor = merged.join("impostor/probe.sh");
        refused(&mut agent, &mut asked_for_token(impostor)).map(drop)
    };
    let result = in_turn();
    nix::mount::umount(&merged)?;
    result
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

/// Starts a probe that asked its parent, which is us, to trace it before it became the probe.
fn traced(output: &Path, stay: &str) -> Result<Pid> {
    let mut command = asked_for_token(probe::path("probe-static")?);
    command
        .args(["--sleep", stay])
        .stdout(File::create(output)?);
    // SAFETY: one system call, which needs nothing of the program that was forked.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    Ok(Pid::from_raw(command.spawn()?.id().cast_signed()))
}

/// Lets a traced child go on at every stop, until its end.
fn trace_to_its_end(pid: Pid) -> Result<WaitStatus> {
    loop {
        let status = waitpid(pid, Some(WaitPidFlag::__WALL))?;
        match status {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Ok(status),
            // It may have been killed between its stop and our word.
            _ => drop(ptrace::cont(pid, None)),
        }
    }
}

/// Its tracer can make it run while it is held. It has no secrets then, and is killed all the same.
fn a_traced_program() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let pid = traced(&scratch.join("output"), "600")?;
    let status = trace_to_its_end(pid)?;
    ensure!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
        "{status:?}"
    );
    let reason = agent.refusal(pid.as_raw().cast_unsigned())?;
    ensure!(reason.contains("traces it"), "{reason}");
    let said = fs::read_to_string(scratch.join("output"))?;
    ensure!(!said.contains("hunter2"), "{said}");
    Ok(())
}

fn a_traced_program_may_start_without() -> Result<()> {
    let scratch = Scratch::new()?;
    let config = Config::token_for("probe-static").policy("onFailure", "allow");
    let mut agent = Agent::run(&config)?;
    let pid = traced(&scratch.join("output"), "1")?;
    let status = trace_to_its_end(pid)?;
    ensure!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    ensure_none(&serde_json::from_slice(&fs::read(scratch.join("output"))?)?)?;
    let event = agent.event("REFUSED", pid.as_raw().cast_unsigned())?;
    ensure!(event["action"] == "started", "{event}");
    Ok(())
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
