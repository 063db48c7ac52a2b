//! A program finds its secrets at its first instruction, however it is made and started.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::{self, run, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const PLACE: &str = "/run/kernelseal/secrets";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("delivery::c_static", || {
            at_first_instruction("probe-static")
        })
        .test("delivery::c_static_pie", || {
            at_first_instruction("probe-static-pie")
        })
        .test("delivery::c_dynamic", || {
            at_first_instruction("probe-dynamic")
        })
        .test("delivery::c_32_bit", of_32_bits)
        .test("delivery::go", || at_first_instruction("probe-go"))
        .test("delivery::rust", || at_first_instruction("probe-rust"))
        .test("delivery::python_script", || {
            at_first_instruction("probe.py")
        })
        .test("delivery::shell_script", || {
            at_first_instruction("probe.sh")
        })
        .test(
            "delivery::environ_does_not_show_it",
            environ_does_not_show_it,
        )
        .test("delivery::files_are_the_users_own", files_are_the_users_own)
        .test(
            "delivery::files_for_who_drops_its_user",
            files_for_who_drops_its_user,
        )
        .test(
            "delivery::files_go_with_the_program",
            files_go_with_the_program,
        )
        .test("delivery::children_find_the_files", children_find_the_files)
        .test("delivery::what_it_sent_arrives", what_it_sent_arrives)
        .test("delivery::env_alone", env_alone)
        .test("delivery::file_alone", file_alone)
        .test("delivery::bindings_add_up", bindings_add_up)
        .test("delivery::ours_wins_a_collision", ours_wins_a_collision)
        .test("delivery::arguments_stay", arguments_stay)
        .test("delivery::titles_stay", titles_stay)
        .test("delivery::an_empty_environment", an_empty_environment)
}

fn at_first_instruction(name: &str) -> Result<()> {
    let path = probe::path(name)?;
    let (_, before) = report(&mut asked_for_token(&path))?;
    ensure_none(&before)?;
    let mut agent = Agent::run(&Config::token_for(name))?;
    let (mut probe, found) = report(&mut asked_for_token(&path))?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["argv"] == before["argv"], "{found}");
    // TOKEN and KERNELSEAL_SECRETS_DIR.
    let count = |report: &Value| report["environ_count"].as_u64().unwrap_or(0);
    ensure!(
        count(&found) == count(&before) + 2,
        "{before} became {found}"
    );
    for claim in ["auxv_ok", "rsp_aligned", "stack_ok", "execfn"] {
        ensure!(
            found.get(claim) == before.get(claim),
            "{claim}: {before} became {found}"
        );
    }
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["env"] == json!(["TOKEN"]) && event["files"] == json!(["TOKEN"]));
    ensure!(event.get("overrode").is_none() && event.get("note").is_none());
    ensure!(probe.wait(SOON)?.success());
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn of_32_bits() -> Result<()> {
    at_first_instruction("probe-32")
}

/// On arm64 a program of 32 bits is not served, and the refusal says so.
#[cfg(target_arch = "aarch64")]
fn of_32_bits() -> Result<()> {
    let scratch = Scratch::new()?;
    let program = scratch.program("narrow", ends_with_seven())?;
    let start = || process::spawn(&mut Command::new(&program));
    ensure!(
        start()?.wait(SOON)?.code() == Some(7),
        "this kernel runs no programs of 32 bits"
    );
    let mut agent = Agent::run(&Config::token_for("narrow"))?;
    let mut refused = start()?;
    ensure!(!refused.wait(SOON)?.success());
    let reason = agent.refusal(refused.pid())?;
    ensure!(reason.contains("32-bit"), "{reason}");
    agent.stop()?;
    let config = Config::token_for("narrow").policy("onFailure", "allow");
    let _agent = Agent::run(&config)?;
    ensure!(start()?.wait(SOON)?.code() == Some(7));
    Ok(())
}

/// An ELF program for `AArch32` that ends with status 7: there is no compiler for more.
#[cfg(target_arch = "aarch64")]
fn ends_with_seven() -> Vec<u8> {
    const BASE: u32 = 0x1_0000;
    const HEADERS: u32 = 52 + 32;
    const SIZE: u32 = HEADERS + 12;
    let half = |low: u32, high: u32| low | high << 16;
    [
        // 32 bits, little-endian; a program, for ARM; entry, its one segment, the ABI, sizes
        [0x464c_457f, 0x0001_0101, 0, 0].as_slice(),
        &[half(2, 40), 1, BASE + HEADERS, 52, 0, 0x0500_0000],
        &[half(52, 32), half(1, 0), half(0, 0)],
        // loaded as it is, to be read and executed
        &[1, 0, BASE, BASE, SIZE, SIZE, 5, 0x1000],
        // mov r0, #7; mov r7, #1; svc 0
        &[0xe3a0_0007, 0xe3a0_7001, 0xef00_0000],
    ]
    .concat()
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect()
}

/// A sealed shell script; `$0` is its path.
fn script(scratch: &Scratch, body: &str) -> Result<Command> {
    let path = scratch.program("app.sh", format!("#!/bin/sh\n{body}\n"))?;
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("OWN", "variable");
    Ok(command)
}

fn environ_does_not_show_it() -> Result<()> {
    let scratch = Scratch::new()?;
    let _agent = Agent::run(&Config::token_for("app.sh"))?;
    let text = run(&mut script(
        &scratch,
        "echo \"has $TOKEN\"; tr '\\0' '\\n' < /proc/$$/environ",
    )?)?;
    let (has, environ) = text.split_once('\n').context("no lines")?;
    ensure!(has == "has hunter2", "{has}");
    ensure!(environ.contains("OWN=variable"), "{environ}");
    ensure!(!environ.contains("hunter2"), "{environ}");
    Ok(())
}

fn files_are_the_users_own() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    command.args(["--sleep", "600"]).uid(1000).gid(1001);
    let (probe, found) = report(&mut command)?;
    ensure_both(&found, "hunter2")?;
    let folder = Path::new(PLACE).join(probe.pid().to_string());
    for (path, mode) in [(folder.join("TOKEN"), 0o400), (folder, 0o500)] {
        let data = fs::metadata(&path)?;
        let mode_found = data.mode() & 0o7777;
        ensure!(
            (data.uid(), data.gid(), mode_found) == (1000, 1001, mode),
            "{}: {} {} {mode_found:o}",
            path.display(),
            data.uid(),
            data.gid()
        );
    }
    Ok(())
}

fn files_go_with_the_program() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let (probe, _) = probe::staying("probe-static")?;
    let pid = probe.pid();
    let folder = Path::new(PLACE).join(pid.to_string());
    ensure!(folder.join("TOKEN").exists());
    drop(probe);
    let event = agent.event("EXITED", pid)?;
    ensure!(event["signal"] == 9, "{event}");
    until("its folder goes", SOON, || !folder.exists())?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(PLACE), "{mounts}");
    Ok(())
}

fn children_find_the_files() -> Result<()> {
    let scratch = Scratch::new()?;
    let _agent = Agent::run(&Config::token_for("app.sh"))?;
    let text = run(&mut script(
        &scratch,
        "echo $(cat $KERNELSEAL_SECRETS_DIR/TOKEN; sh -c 'cat $KERNELSEAL_SECRETS_DIR/TOKEN; echo $TOKEN')",
    )?)?;
    ensure!(text == "hunter2hunter2hunter2\n", "{text}");
    Ok(())
}

/// With sendfile(2) a pipe holds the file's own pages; the end of the program must not change them.
fn what_it_sent_arrives() -> Result<()> {
    let scratch = Scratch::new()?;
    let _agent = Agent::run(&Config::token_for("app.sh"))?;
    let mut command = script(&scratch, "exec cat $KERNELSEAL_SECRETS_DIR/TOKEN")?;
    for n in 0..5 {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let folder = Path::new(PLACE).join(child.id().to_string());
        let mut pipe = child.stdout.take().context("no pipe")?;
        ensure!(child.wait()?.success());
        until("its folder goes", SOON, || !folder.exists())?;
        let mut text = String::new();
        pipe.read_to_string(&mut text)?;
        ensure!(text == "hunter2", "start {n}: {text:?}");
    }
    Ok(())
}

fn env_alone() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static").delivery(&["env"]))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let (mut probe, found) = report(command.args(["--env", "KERNELSEAL_SECRETS_DIR"]))?;
    ensure!(
        found["env"] == json!({"TOKEN": "hunter2", "KERNELSEAL_SECRETS_DIR": null}),
        "{found}"
    );
    ensure!(!Path::new(PLACE).join(probe.pid().to_string()).exists());
    ensure!(probe.wait(SOON)?.success());
    Ok(())
}

fn file_alone() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static").delivery(&["file"]))?;
    let (probe, found) = report(&mut asked_for_token(probe::path("probe-static")?))?;
    ensure!(found["env"]["TOKEN"].is_null(), "{found}");
    ensure!(found["files"]["TOKEN"]["content"] == "hunter2", "{found}");
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["env"] == json!([]) && event["files"] == json!(["TOKEN"]));
    Ok(())
}

fn bindings_add_up() -> Result<()> {
    let config = Config::token_for("probe-static")
        .delivery(&["env"])
        .and_seal("probe-static")
        .value("SECOND", "two")
        .and_seal("probe-rust")
        .value("OTHER", "not yours");
    let mut agent = Agent::run(&config)?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    command.args(["--env", "SECOND", "--env", "OTHER", "--file", "SECOND"]);
    let (probe, found) = report(&mut command)?;
    ensure!(
        found["env"] == json!({"TOKEN": "hunter2", "SECOND": "two", "OTHER": null}),
        "{found}"
    );
    ensure!(found["files"]["SECOND"]["content"] == "two", "{found}");
    ensure!(
        found["files"]["TOKEN"]["error"].is_string(),
        "only a variable was asked for: {found}"
    );
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["bindings"] == json!(["binding-0", "binding-1"]));
    Ok(())
}

fn ours_wins_a_collision() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    command.env("TOKEN", "theirs").env("TOKENS", "untouched");
    let (probe, found) = report(command.args(["--env", "TOKENS"]))?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["env"]["TOKENS"] == "untouched", "{found}");
    // PATH, TOKEN, TOKENS, KERNELSEAL_SECRETS_DIR.
    ensure!(found["environ_count"] == 4, "{found}");
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["overrode"] == json!(["TOKEN"]), "{event}");
    Ok(())
}

/// What ps shows of a program that sets its title, whichever of its variables ours replace.
fn titles_stay() -> Result<()> {
    let title = "x".repeat(100);
    let filler = format!("UNIMPORTANT={}", "y".repeat(120));
    let own = ["TOKEN=short", &filler, "ZLAST=1"];
    let found = |variables: &[&str]| -> Result<String> {
        let mut command = Command::new(probe::path("title")?);
        let variables = variables.iter().filter_map(|text| text.split_once('='));
        command
            .arg(title.len().to_string())
            .env_clear()
            .envs(variables);
        Ok(run(&mut command)?.trim_end().to_owned())
    };
    // (the command's are in the order of their names)
    let plain = [found(&own)?, found(&own[1..])?];
    ensure!(plain[0] == format!("{title}\nshort"), "{plain:?}");
    let _agent = Agent::run(&Config::token_for("title"))?;
    for variables in [&own[..], &own[1..], &["AAA=1", own[0], own[1]]] {
        let found = found(variables)?;
        ensure!(
            found == format!("{title}\nhunter2"),
            "{variables:?}: {found}"
        );
    }
    Ok(())
}

/// It reads its file when it is root no more; others of that user do not.
fn files_for_who_drops_its_user() -> Result<()> {
    const NOBODY: u32 = 65534;
    let folder = Scratch::new()?;
    let script = r#"#!/usr/bin/python3
import os
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
path = os.environ["KERNELSEAL_SECRETS_DIR"] + "/TOKEN"
try:
    print(path, open(path).read(), flush=True)
except OSError as e:
    print(path, e, flush=True)
import time
time.sleep(600)
"#;
    let program = folder.program("drops.py", script)?;
    for (access, mode, finds) in [
        (json!({}), 0o400, false),
        (json!({"gid": NOBODY, "mode": "0440"}), 0o440, true),
        (json!({"uid": NOBODY}), 0o400, true),
        (json!({"mode": "0444"}), 0o444, true),
    ] {
        let config = Config::token_for("drops.py").binding_key("file", access.clone());
        let _agent = Agent::run(&config)?;
        let mut running = process::spawn(&mut Command::new(&program))?;
        let line = running.line(SOON)?;
        ensure!(line.contains("hunter2") == finds, "{access}: {line}");
        let path = line.split(' ').next().context("no path")?;
        ensure!(
            fs::metadata(path)?.mode() & 0o777 == mode,
            "{:o}",
            fs::metadata(path)?.mode()
        );
        for user in [0, NOBODY] {
            let mut stranger = Command::new("cat");
            let output = stranger.arg(path).uid(user).output()?;
            ensure!(!output.status.success() && output.stdout.is_empty());
        }
    }
    Ok(())
}

/// More arguments than one read of the stack takes.
fn arguments_stay() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let long = "x".repeat(100);
    for _ in 0..1000 {
        command.args(["--env", &long]);
    }
    let (_probe, found) = report(&mut command)?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["argv"].as_array().map(Vec::len) == Some(2005));
    ensure!(found["argv"][2004] == long.as_str());
    ensure!(found["auxv_ok"] == true && found["rsp_aligned"] == true);
    Ok(())
}

fn an_empty_environment() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(probe::path("probe-static")?);
    let (mut probe, found) = report(command.env_remove("PATH"))?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["environ_count"] == 2, "{found}");
    ensure!(process::state(probe.pid()) != Some('T'));
    ensure!(probe.wait(SOON)?.success());
    Ok(())
}
