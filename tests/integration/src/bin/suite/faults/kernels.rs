//! Kernels that cannot be served are not served by halves.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned::PINS;
use kernelseal_integration::probe::{self, ensure_none, report};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Started, agent, target};
use crate::lifecycle::cleanup;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("faults::a_missing_field", a_missing_field)
        .test("faults::hooks_that_are_full", hooks_that_are_full)
}

/// A kernel whose type information lacks a field is not served by guesses.
fn a_missing_field() -> Result<()> {
    const BTF: &str = "/sys/kernel/btf/vmlinux";
    const FIELD: &[u8] = b"\0start_boottime\0";
    cleanup()?;
    let mut types = fs::read(BTF)?;
    let at = types
        .windows(FIELD.len())
        .position(|bytes| bytes == FIELD)
        .context("no such field")?;
    types[at + 1..at + 6].copy_from_slice(b"other");
    let scratch = Scratch::new()?;
    let file = scratch.path().join("btf");
    File::create(&file)?.write_all(&types)?;
    let config = scratch.file("config.yaml", Config::token_for("probe-static").to_string())?;
    for arguments in [&["run", "--config"][..], &["check"]] {
        let mut command = Agent::command(arguments);
        if arguments.len() > 1 {
            command.arg(&config);
        }
        let file = file.clone();
        // SAFETY: two system calls between fork and exec, which is where they must be.
        unsafe {
            command.pre_exec(move || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                let none = None::<&str>;
                let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
                mount(none, "/", none, private, none)?;
                mount(Some(&file), BTF, none, MsFlags::MS_BIND, none)?;
                Ok(())
            });
        }
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(
            output.status.code() == Some(1) && said.contains("task_struct.start_boottime"),
            "{arguments:?}: {said}"
        );
    }
    ensure!(fs::read_dir(PINS)?.count() == 0, "something is pinned");
    Ok(())
}

/// A hook takes so many programs and no more: an agent that finds it full does not start by halves.
fn hooks_that_are_full() -> Result<()> {
    // `BPF_MAX_TRAMP_LINKS` (include/linux/bpf.h) is 38; nobody has raised it yet.
    const MORE_THAN_ENOUGH: &str = "100";
    cleanup()?;
    for hook in ["file_open", "bprm_creds_for_exec"] {
        let mut full = Started(
            Command::new(probe::path("hooks")?)
                .args([hook, MORE_THAN_ENOUGH])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let mut line = [0; 4];
        let mut output = full.0.stdout.take().context("no output")?;
        let read = output.read(&mut line)?;
        let count: u32 = std::str::from_utf8(&line[..read])?.trim().parse()?;
        ensure!((10..100).contains(&count), "{count} went into {hook}");
        let config = Config::token_for("probe-static").to_string();
        let (status, said) = Agent::expect_failure(&config)?;
        ensure!(
            status.code() == Some(1) && said.contains(&format!("refused program {hook}")),
            "{said}"
        );
        let pins = fs::read_dir(PINS)?.count();
        ensure!(pins == 0, "something is pinned");
        let check = Agent::command(&["check"]).output()?;
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        ensure!(
            check.status.code() == Some(1) && said.contains(&format!("program {hook}")),
            "{said}"
        );
        // Nothing of it stands in anybody's way.
        ensure_none(&report(&mut target()?)?.1)?;
    }
    agent().map(drop)
}
