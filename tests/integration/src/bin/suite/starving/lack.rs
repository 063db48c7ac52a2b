//! Too little of something: descriptors, memory for long texts, time for long files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe;
use kernelseal_integration::process::{run, spawn, state, status_number, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;

use super::{PLACE, SOON};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("starving::an_error_is_no_mismatch", an_error_is_no_mismatch)
        .test(
            "starving::an_agent_at_work_lacks_no_descriptor",
            an_agent_at_work_lacks_no_descriptor,
        )
        .test("starving::files_without_end", files_without_end)
        .test("starving::mounts_without_number", mounts_without_number)
}

/// Sets another process's limits of descriptors.
fn limit_descriptors(pid: u32, limit: libc::rlim_t) -> Result<()> {
    let limits = libc::rlimit {
        rlim_cur: limit,
        rlim_max: 4096,
    };
    // SAFETY: a system call that reads what we give it.
    let result = unsafe {
        libc::prlimit(
            libc::pid_t::try_from(pid)?,
            libc::RLIMIT_NOFILE,
            &raw const limits,
            std::ptr::null_mut(),
        )
    };
    ensure!(result == 0, std::io::Error::last_os_error());
    Ok(())
}

/// What the agent cannot look at for want of descriptors is no impostor: it waits, and is refused by what was wanting.
fn an_error_is_no_mismatch() -> Result<()> {
    const HARDLY_ANY: libc::rlim_t = 3;
    let path = probe::path("probe-static")?;
    let config = Config::token_for(&path.to_string_lossy()).policy("holdTimeout", "8s");
    let mut agent = Agent::run(&config)?;
    let (_first, found) = probe::staying("probe-static")?;
    probe::ensure_both(&found, "hunter2")?;

    limit_descriptors(agent.pid(), HARDLY_ANY)?;
    let mut waits = spawn(probe::asked_for_token(&path).args(["--sleep", "600"]))?;
    thread::sleep(Duration::from_secs(2));
    limit_descriptors(agent.pid(), 4096)?;
    probe::ensure_both(&waits.json(SOON)?, "hunter2")?;
    agent.event("SEALED", waits.pid())?;

    limit_descriptors(agent.pid(), HARDLY_ANY)?;
    let mut refused = spawn(&mut probe::asked_for_token(&path))?;
    let status = refused.wait(SOON)?;
    limit_descriptors(agent.pid(), 4096)?;
    ensure!(!status.success());
    let reason = agent.refusal(refused.pid())?;
    ensure!(reason.contains("Too many open files"), "{reason}");
    ensure!(!reason.contains("does not match"), "{reason}");
    Ok(())
}

/// Starts an agent that can have so many descriptors; says whether it came to work. One that did goes on, one that did not
/// says what was wanting.
fn works_with(descriptors: u32) -> Result<bool> {
    /// A thread that begins late has looked for its descriptors by then.
    const LATE: Duration = Duration::from_millis(500);
    let mut shell = Command::new("sh");
    let script = format!("ulimit -n {descriptors} && exec \"$@\"");
    shell.args(["-c", &script, "sh"]).arg(Agent::binary());
    let config = Config::token_for("probe-static").to_string();
    match Agent::start_as(shell, &config)?.readied() {
        Ok(mut agent) => {
            thread::sleep(LATE);
            ensure!(
                !agent.log_contains("a delivering thread"),
                "{descriptors} descriptors: {}",
                agent.log().join("\n")
            );
            ensure!(
                state(agent.pid()).is_some_and(|state| state != 'Z'),
                "{descriptors} descriptors: it ended"
            );
            // (to end well takes one more: it says so where there is none)
            agent.stop()?;
            Ok(true)
        }
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains("Too many open files"),
                "{descriptors} descriptors: {said}"
            );
            Ok(false)
        }
    }
}

/// Whatever its limit: an agent that says that it watches has what each of its threads needs.
fn an_agent_at_work_lacks_no_descriptor() -> Result<()> {
    /// Limits below the least with which it works: what one thread needs.
    const BELOW: u32 = 4;
    drop(Agent::run(&Config::token_for("probe-static"))?);
    let (mut too_few, mut enough) = (8_u32, 128);
    while enough - too_few > 1 {
        let between = too_few.midpoint(enough);
        if works_with(between)? {
            enough = between;
        } else {
            too_few = between;
        }
    }
    for descriptors in (enough - BELOW)..(enough + 2) {
        let works = works_with(descriptors)?;
        println!("{descriptors} descriptors: {works}");
        ensure!(
            works || descriptors <= enough,
            "{descriptors} are not enough"
        );
    }
    Ok(())
}

/// An agent that begins looks for its predecessor's files in every mount namespace, and takes no more memory for one with so
/// many mounts that their list has 24 MB.
fn mounts_without_number() -> Result<()> {
    const COUNT: usize = 8_000;
    let first = Agent::run(&Config::token_for("probe-static"))?;
    let (ends, _) = probe::staying("probe-static")?;
    let before = status_number(first.pid(), "VmHWM")?;
    first.kill()?;
    let folder = Scratch::new()?;
    let mut command = Command::new(probe::path("mounts")?);
    let mut mounts = spawn(command.arg(COUNT.to_string()).arg(folder.path()))?;
    let made: usize = mounts.line(Duration::from_mins(2))?.parse()?;
    let list = fs::read_to_string(format!("/proc/{}/mountinfo", mounts.pid()))?;
    let below = folder.path().to_str().context("the folder's name")?;
    let there = list.lines().filter(|line| line.contains(below)).count();
    ensure!((made, there) == (COUNT, COUNT), "{made} mounts, {there}");
    drop(list);

    let mut second = Agent::run(&Config::token_for("probe-static"))?;
    let (stays, found) = probe::staying("probe-static")?;
    probe::ensure_both(&found, "hunter2")?;
    second.event("SEALED", stays.pid())?;
    let after = status_number(second.pid(), "VmHWM")?;
    println!("{before} KiB, with the mounts {after} KiB");
    ensure!(after <= before + 4096, "{before} KiB, then {after} KiB");
    // It is adopted, when all mounts have been looked at.
    second.wait_for_log("adopted the sealed programs", Duration::from_mins(1))?;
    let folder = format!("{PLACE}/{}", ends.pid());
    let gone = ends.pid();
    drop(ends);
    second.event("EXITED", gone)?;
    until("its folder goes", SOON, || !Path::new(&folder).exists())
}

/// Programs of which the agent is to count the digest: one that it does not read, one that takes it long, and an ordinary one.
pub(super) struct Files {
    _folder: Scratch,
    pub(super) too_long: PathBuf,
    pub(super) long: PathBuf,
    pub(super) good: PathBuf,
}

impl Files {
    pub(super) fn new() -> Result<Self> {
        /// In bytes.
        const TOO_LONG: u64 = 4 << 40;
        const LONG: u64 = 1 << 30;
        let folder = Scratch::within(Path::new("/ext4"))?;
        let sparse = |name: &str, length: u64| -> Result<PathBuf> {
            let path = folder.probe("probe-static", name)?;
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(length)?;
            Ok(path)
        };
        let (too_long, long) = (sparse("too-long", TOO_LONG)?, sparse("long", LONG)?);
        let good = folder.probe("probe-static", "good")?;
        Ok(Self {
            _folder: folder,
            too_long,
            long,
            good,
        })
    }

    /// Bindings for them, the last with the digest that it has.
    pub(super) fn bound(&self, config: Config) -> Result<Config> {
        let none_has_it = "0".repeat(64);
        let bind = |config: Config, name: &str, digest: &str| {
            let config = config.and_seal(name).value("TOKEN", "hunter2");
            config.selector("sha256", digest)
        };
        let config = bind(bind(config, "too-long", &none_has_it), "long", &none_has_it);
        Ok(bind(config, "good", &sha256(&self.good)?))
    }
}

/// Files under a bound name that are long to read: theirs is the trouble, and no other program waits for it.
fn files_without_end() -> Result<()> {
    let files = Files::new()?;
    let config = files
        .bound(Config::token_for("probe-static"))?
        .policy("holdTimeout", "20s");
    let mut agent = Agent::run(&config)?;
    let mut refused = spawn(&mut Command::new(&files.too_long))?;
    refused.wait(SOON)?;
    let reason = agent.refusal(refused.pid())?;
    ensure!(reason.contains("no file of more than"), "{reason}");

    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(spawn(&mut Command::new(&files.long))?);
    }
    for _ in 0..10 {
        let begin = Instant::now();
        let found = probe::report(&mut probe::asked_for_token(&files.good))?.1;
        probe::ensure_both(&found, "hunter2")?;
        ensure!(
            begin.elapsed() < Duration::from_secs(10),
            "{:?}",
            begin.elapsed()
        );
    }
    ensure!(
        slow.iter()
            .all(|slow| state(slow.pid()).is_some_and(|state| "tT".contains(state))),
        "the long files are read already"
    );
    for mut slow in slow {
        slow.wait(Duration::from_mins(1))?;
        agent.event("REFUSED", slow.pid())?;
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let said = run(Command::new("sha256sum").arg(path))?;
    let digest = said.split_whitespace().next();
    Ok(digest.context("no digest")?.to_owned())
}
