//! Scripts: it is the script that is judged, by whatever interpreter and name it comes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::run;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount, umount};

use super::{digest, given, refused, text};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("identity::a_script_of_the_name", a_script_of_the_name)
        .test(
            "identity::an_interpreter_of_somebodys_choice",
            an_interpreter_of_somebodys_choice,
        )
        .test("identity::a_scripts_script", a_scripts_script)
        .test("identity::a_script_at_the_path", a_script_at_the_path)
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
