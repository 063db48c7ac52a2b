//! Which programs a binding is about: by the name used, by the file's own, in every PID namespace.

use std::ffi::CString;
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::namespace::{in_pid_namespace, process_one};
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::fcntl::{AtFlags, OFlag};
use nix::unistd::execveat;
use serde_json::Value;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("names::a_symlinks_name_counts", a_symlinks_name_counts)
        .test("names::a_files_own_name_counts", a_files_own_name_counts)
        .test(
            "names::a_descriptors_file_counts",
            a_descriptors_file_counts,
        )
        .test(
            "names::an_open_folders_file_counts",
            an_open_folders_file_counts,
        )
        .test("names::longest_name", longest_name)
        .test("names::names_of_every_length", names_of_every_length)
        .test("names::paths_of_every_length", paths_of_every_length)
        .test("names::all_of_the_name_counts", all_of_the_name_counts)
        .test("names::a_name_cut_amid_a_letter", a_name_cut_amid_a_letter)
        .test(
            "names::a_scripts_interpreter_does_not_count",
            a_scripts_interpreter_does_not_count,
        )
        .test("names::a_thousand_bindings", a_thousand_bindings)
        .test(
            "names::target_in_a_pod_of_its_own",
            target_in_a_pod_of_its_own,
        )
        .test(
            "names::agent_and_target_in_one_pod",
            agent_and_target_in_one_pod,
        )
        .test(
            "names::agent_and_target_in_two_containers",
            agent_and_target_in_two_containers,
        )
        .test(
            "names::an_agent_in_a_pod_seals_nobody_outside",
            an_agent_in_a_pod_seals_nobody_outside,
        )
}

fn found_by(program: &Path) -> Result<Value> {
    Ok(report(&mut asked_for_token(program))?.1)
}

fn a_symlinks_name_counts() -> Result<()> {
    let scratch = Scratch::new()?;
    let link = scratch.join("applet");
    symlink(probe::path("probe-static")?, &link)?;
    let mut agent = Agent::run(&Config::token_for("applet"))?;
    let (probe, found) = report(&mut asked_for_token(&link))?;
    ensure_both(&found, "hunter2")?;
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["process"] == "applet", "{event}");
    ensure_none(&found_by(&probe::path("probe-static")?)?)
}

fn a_files_own_name_counts() -> Result<()> {
    let scratch = Scratch::new()?;
    let link = scratch.join("other-name");
    symlink(probe::path("probe-static")?, &link)?;
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    ensure_both(&found_by(&link)?, "hunter2")
}

/// Executes what a descriptor is open on, with a path below it.
fn by_descriptor(opened: File, below: &str, arguments: &[&str]) -> Result<Value> {
    let text = |text: &&str| CString::new(*text);
    let argv = arguments.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let (below, flags) = (
        CString::new(below)?,
        if below.is_empty() {
            AtFlags::AT_EMPTY_PATH
        } else {
            AtFlags::empty()
        },
    );
    let mut command = Command::new("never-executed-by-this-name");
    // SAFETY: it makes one system call, with memory that was allocated before the fork.
    unsafe {
        command.pre_exec(move || {
            match execveat(opened.as_fd(), &below, &argv, &[] as &[CString], flags) {
                Err(error) => Err(error.into()),
                Ok(never) => match never {},
            }
        });
    }
    Ok(report(&mut command)?.1)
}

fn a_descriptors_file_counts() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let arguments = ["anything", "--env", "TOKEN", "--file", "TOKEN"];
    let program = File::open(probe::path("probe-static")?)?;
    ensure_both(&by_descriptor(program, "", &arguments)?, "hunter2")
}

fn an_open_folders_file_counts() -> Result<()> {
    let _agent = Agent::run(&Config::token_for("probe-static"))?;
    let path = probe::path("probe-static")?;
    let folder = nix::fcntl::open(
        path.parent().context("a program lies in a folder")?,
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let arguments = ["anything", "--env", "TOKEN", "--file", "TOKEN"];
    let found = by_descriptor(folder.into(), "probe-static", &arguments)?;
    ensure_both(&found, "hunter2")
}

fn longest_name() -> Result<()> {
    let scratch = Scratch::new()?;
    let name = "n".repeat(255);
    let program = scratch.probe("probe-static", &name)?;
    let mut agent = Agent::run(&Config::token_for(&name))?;
    let (probe, found) = report(&mut asked_for_token(&program))?;
    ensure_both(&found, "hunter2")?;
    let event = agent.event("SEALED", probe.pid())?;
    ensure!(event["process"] == name.as_str(), "{event}");
    Ok(())
}

/// Names are looked at eight bytes at a time, and those of up to 31 to 39 bytes lie elsewhere in the kernel than longer
/// ones: as the file's own name, as a link's, and behind folders that move them to every place in such a group.
fn names_of_every_length() -> Result<()> {
    const LENGTHS: RangeInclusive<usize> = 1..=42;
    let name =
        |length: usize| -> String { ('a'..='z').cycle().skip(length).take(length).collect() };
    let others = LENGTHS
        .skip(1)
        .fold(Config::token_for(&name(1)), |config, length| {
            config.and_seal(&name(length)).value("TOKEN", "hunter2")
        });
    let _agent = Agent::run(&others)?;
    for length in LENGTHS {
        let scratch = Scratch::new()?;
        let own = scratch.probe("probe-static", name(length))?;
        let folder = scratch.join("f".repeat(length % 8 + 1));
        fs::create_dir(&folder)?;
        let (named, unnamed) = (folder.join(name(length)), folder.join("unnamed"));
        symlink(probe::path("probe-static")?, &named)?;
        symlink(&own, &unnamed)?;
        for path in [own, named, unnamed] {
            ensure_both(&found_by(&path)?, "hunter2")
                .with_context(|| format!("{} ({length} bytes)", path.display()))?;
        }
    }
    Ok(())
}

/// Of a long path its end is looked at, up to the longest that the kernel takes (`PATH_MAX`, with its NUL); here a link's, for
/// the file's own name would do as well.
fn paths_of_every_length() -> Result<()> {
    const LONGEST: usize = 4095;
    let scratch = Scratch::new()?;
    let long_name = "n".repeat(255);
    let config = Config::token_for("link").and_seal(&long_name);
    let _agent = Agent::run(&config.value("TOKEN", "hunter2"))?;
    let lengths = (250..=264)
        .chain(377..=390)
        .chain([511, 512, 2048, LONGEST - 1, LONGEST]);
    for name in ["link", &long_name] {
        let link = scratch.join(name);
        symlink(probe::path("probe-static")?, &link)?;
        let folder = scratch.path().as_os_str().len();
        for length in lengths
            .clone()
            .filter(|length| *length > folder + 1 + name.len())
        {
            let slashes = "/".repeat(length - folder - name.len());
            let path = format!("{}{slashes}{name}", scratch.path().display());
            ensure!(path.len() == length);
            ensure_both(&found_by(Path::new(&path))?, "hunter2")
                .with_context(|| format!("{length} bytes, {} of them the name", name.len()))?;
        }
    }
    Ok(())
}

/// The kernel's `comm` has 15 characters.
fn all_of_the_name_counts() -> Result<()> {
    let scratch = Scratch::new()?;
    let meant = scratch.probe("probe-static", "fifteen-letters-and-mine")?;
    let other = scratch.probe("probe-static", "fifteen-letters-and-theirs")?;
    let shorter = scratch.probe("probe-static", "fifteen-letters")?;
    let _agent = Agent::run(&Config::token_for("fifteen-letters-and-mine"))?;
    ensure_both(&found_by(&meant)?, "hunter2")?;
    ensure_none(&found_by(&other)?)?;
    ensure_none(&found_by(&shorter)?)
}

/// The kernel's `comm` is then not UTF-8. More than once: what is read in `/proc` is not always needed.
fn a_name_cut_amid_a_letter() -> Result<()> {
    let name = "zehnmalzehnf\u{fc}\u{df}e";
    ensure!(std::str::from_utf8(&name.as_bytes()[..15]).is_err());
    let scratch = Scratch::new()?;
    let program = scratch.probe("probe-static", name)?;
    let _agent = Agent::run(&Config::token_for(name))?;
    for _ in 0..50 {
        ensure_both(&found_by(&program)?, "hunter2")?;
    }
    Ok(())
}

fn a_scripts_interpreter_does_not_count() -> Result<()> {
    let scratch = Scratch::new()?;
    let interpreter = scratch.probe("probe-static", "interpreter")?;
    let text = format!("#!{} --execfn\n", interpreter.display());
    let script = scratch.program("script", text)?;
    let _agent = Agent::run(&Config::token_for("interpreter"))?;
    ensure_none(&found_by(&script)?)
}

fn a_thousand_bindings() -> Result<()> {
    let config = (1..1000).fold(
        Config::seal("name-0").value("TOKEN", "of 0"),
        |config, n| {
            config
                .and_seal(&format!("name-{n}"))
                .value("TOKEN", &format!("of {n}"))
        },
    );
    let scratch = Scratch::new()?;
    let _agent = Agent::run(&config)?;
    for n in [0, 499, 999] {
        let program = scratch.probe("probe-static", format!("name-{n}"))?;
        ensure_both(&found_by(&program)?, &format!("of {n}"))?;
    }
    Ok(())
}

fn target_in_a_pod_of_its_own() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = in_pid_namespace(probe::path("probe-static")?);
    command.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
    let (probe, found) = report(command.env("PATH", "/usr/bin:/bin"))?;
    ensure_both(&found, "hunter2")?;
    ensure!(found["pid"] == 1, "{found}");
    // The event tells the number as the agent sees it, the path as the program does.
    agent.event("SEALED", process_one(probe.pid())?)?;
    let ours = Path::new("/run/kernelseal/secrets/1/TOKEN");
    ensure!(!ours.exists(), "the files are in our mount namespace too");
    Ok(())
}

/// Runs a shell command in the PID namespace of a pod's first process, and in others of its namespaces.
fn in_the_pod_of(process: u32, namespaces: &[&str], script: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &process.to_string(), "-p"])
        .args(namespaces)
        .args(["sh", "-c", script])
        .env("PATH", "/usr/bin:/bin");
    command
}

fn agent_in_a_pod(config: &Config) -> Result<(Agent, u32)> {
    let agent = Agent::start_in_pid_namespace(&config.to_string())?.readied()?;
    let first = process_one(agent.pid())?;
    Ok((agent, first))
}

fn in_one_pod(namespaces: &[&str], start: impl Fn(String) -> String) -> Result<()> {
    let (mut agent, first) = agent_in_a_pod(&Config::token_for("probe-static"))?;
    let program = probe::path("probe-static")?;
    let program = format!(
        "exec {} --env TOKEN --file TOKEN --sleep 600",
        program.display()
    );
    let (_probe, found) = report(&mut in_the_pod_of(first, namespaces, &start(program)))?;
    ensure_both(&found, "hunter2")?;
    let number = found["pid"].as_u64().context("no number")?;
    ensure!(number > 1, "{found}");
    agent.event("SEALED", u32::try_from(number)?)?;
    Ok(())
}

fn agent_and_target_in_one_pod() -> Result<()> {
    in_one_pod(&["-m"], |program| program)
}

/// As in Kubernetes with a shared PID namespace: each container has files of its own.
fn agent_and_target_in_two_containers() -> Result<()> {
    in_one_pod(&[], |program| {
        format!("exec unshare -m sh -c 'mount -t proc proc /proc; {program}'")
    })
}

fn an_agent_in_a_pod_seals_nobody_outside() -> Result<()> {
    let (_agent, _) = agent_in_a_pod(&Config::token_for("probe-static"))?;
    ensure_none(&found_by(&probe::path("probe-static")?)?)?;
    // A pod beside it is nobody's business either.
    let mut command = in_pid_namespace(probe::path("probe-static")?);
    command.args(["--env", "TOKEN", "--file", "TOKEN"]);
    ensure_none(&report(&mut command)?.1)?;
    Ok(())
}
