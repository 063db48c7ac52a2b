//! Each way to starve the agent, kept up at the manifest's limits, while programs start beside it: every one has its secrets,
//! and the agent is not started again.
//!
//! A siege takes `KERNELSEAL_STARVE` seconds; a program starts every second and a half, 200 in five minutes.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe;
use kernelseal_integration::process::{
    Running, descriptors, resident_kib, spawn, state, status_number, until,
};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::http::{is_ready, server_of};
use super::lack::Files;
use super::{SOON, agent_after};
use crate::observe::{PORT, serving};

/// Seconds, unless told.
const SHORT: u64 = 15;
/// A siege is a long one from so many seconds on.
const IS_LONG: u64 = 60;
/// From one start to the next.
const PAUSE: Duration = Duration::from_millis(1_500);
/// A test's time is that of its siege and so much for the rest.
const BESIDES: Duration = Duration::from_mins(10);
/// The kernel copies trees of mounts quickly; this is for an emulated machine that is busy.
const MOUNTING: Duration = Duration::from_mins(5);
/// How long a kubelet waits for an answer to its probe, as deploy/ has it.
const PROBE: Duration = Duration::from_secs(10);
/// Of the agent that is besieged.
const GROUP: &str = "/sys/fs/cgroup/besieged";
const MANIFEST: &str = include_str!("../../../../../../deploy/sidecar-pod.yaml");

type Test = fn() -> Result<()>;

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    let tests: [(&str, Test); 5] = [
        ("starving::siege_of_unfinished_heads", unfinished_heads),
        ("starving::siege_of_idle_connections", idle_connections),
        ("starving::siege_of_a_taken_port", a_taken_port),
        ("starving::siege_of_mounts", mounts),
        ("starving::siege_of_files", files),
    ];
    // (a length that is no number is told by the tests)
    let limit = length().unwrap_or_default() + MOUNTING + BESIDES;
    tests.into_iter().fold(registry, |registry, (name, test)| {
        registry.slow_test(name, limit, test)
    })
}

fn length() -> Result<Duration> {
    let seconds = match env::var("KERNELSEAL_STARVE") {
        Ok(text) => text
            .parse()
            .context("KERNELSEAL_STARVE: seconds are wanted")?,
        Err(_) => SHORT,
    };
    Ok(Duration::from_secs(seconds))
}

fn is_long() -> Result<bool> {
    Ok(length()? >= Duration::from_secs(IS_LONG))
}

/// What the manifest gives the agent: memory in bytes, and its processor's weight, as the kubelet makes that of a request.
fn limits() -> Result<(u64, u64)> {
    let of = |key: &str, unit: &str| -> Result<u64> {
        let (_, rest) = MANIFEST
            .split_once(key)
            .context("the manifest has no limits")?;
        let (number, _) = rest
            .split_once(unit)
            .context("the manifest has another unit")?;
        Ok(number.trim().parse()?)
    };
    let memory = of("limits: {memory:", "Mi")? << 20;
    // Shares of cgroup 1, of 1,024 for a processor and no less than 2; then of 2 to 262,144 to 1 to 10,000.
    let shares = (of("requests: {cpu:", "m")? * 1024 / 1000).max(2);
    Ok((memory, 1 + (shares - 2) * 9_999 / 262_142))
}

/// An agent with the manifest's limits.
fn agent(config: &Config) -> Result<Agent> {
    let (memory, weight) = limits()?;
    fs::create_dir_all(GROUP)?;
    for (file, value) in [("memory.max", memory), ("cpu.weight", weight)] {
        let path = Path::new(GROUP).join(file);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())?;
    }
    agent_after(&format!("echo 0 >{GROUP}/cgroup.procs"), config)
}

/// How many of the group the kernel has killed for want of memory.
fn killed_for_memory() -> Result<u64> {
    let events = fs::read_to_string(Path::new(GROUP).join("memory.events"))?;
    let mut lines = events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "));
    Ok(lines.next().context("no oom_kill")?.trim().parse()?)
}

/// What the kubelet's probe gets: anything but an answer in time has the agent started again.
fn ensure_alive() -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], PORT).into(), PROBE)?;
    stream.set_read_timeout(Some(PROBE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .context("no answer to a probe")?;
    ensure!(
        text.starts_with("HTTP/1.1 200"),
        "a probe was answered: {text}"
    );
    Ok(())
}

/// Programs start, one after another, for as long as the siege lasts, which is kept up before each.
fn withstand(agent: &Agent, program: &Path, mut keep_up: impl FnMut() -> Result<()>) -> Result<()> {
    let starts = u32::try_from(length()?.as_millis() / PAUSE.as_millis())?;
    let killed = killed_for_memory()?;
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    for n in 0..starts {
        keep_up().with_context(|| format!("before start {n}"))?;
        let started = Instant::now();
        let found = probe::report(&mut probe::asked_for_token(program));
        let found = found.with_context(|| format!("start {n}"))?.1;
        longest = longest.max(started.elapsed());
        probe::ensure_both(&found, "hunter2").with_context(|| format!("start {n}"))?;
        thread::sleep((PAUSE * (n + 1)).saturating_sub(begin.elapsed()));
    }
    ensure!(starts > 0, "nothing was started: it is too short");
    let peak = fs::read_to_string(Path::new(GROUP).join("memory.peak")).unwrap_or_default();
    println!(
        "{starts} starts in {:?}, the longest {longest:?}; the group had {} bytes at most, the agent has {} KiB",
        begin.elapsed(),
        peak.trim(),
        resident_kib(agent.pid())?
    );
    ensure!(
        killed_for_memory()? == killed,
        "memory was wanting, and somebody was killed"
    );
    ensure!(
        state(agent.pid()).is_some_and(|state| state != 'Z'),
        "the agent has ended"
    );
    Ok(())
}

/// Connections, each with so much of a head. What the other side does not take is left.
fn connections(count: usize, head: &[u8]) -> Result<Vec<TcpStream>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut all = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect_timeout(&([127, 0, 0, 1], PORT).into(), SOON)?;
        stream.set_nonblocking(true)?;
        let mut left = head;
        while let Ok(written) = (&stream).write(left)
            && written > 0
        {
            left = &left[written..];
        }
        all.push(stream);
    }
    Ok(all)
}

/// Whoever connects, and however often: programs get their secrets, the probes their answers, and nothing grows.
fn beside_connections(count: usize, head: &[u8]) -> Result<()> {
    const MORE: usize = 10;
    /// What has ended is wiped two seconds later.
    const ENDING: u64 = 20;
    let agent = agent(&serving())?;
    ensure!(is_ready());
    let server = server_of(&agent)?;
    let look = || -> Result<[u64; 3]> {
        Ok([
            resident_kib(agent.pid())?,
            resident_kib(server)?,
            descriptors(agent.pid())? as u64,
        ])
    };
    let before = look()?;
    let mut all = connections(count, head)?;
    withstand(&agent, &probe::path("probe-static")?, || {
        // (the server ends those that say nothing)
        all.drain(..MORE);
        all.extend(connections(MORE, head)?);
        ensure_alive()
    })?;
    let after = look()?;
    println!("resident memory of both, descriptors: {before:?}, then {after:?}");
    ensure!(
        after[0] <= before[0] + 1024
            && after[1] <= before[1] + 6144
            && after[2] <= before[2] + ENDING,
        "{before:?}, then {after:?}"
    );
    ensure!(server_of(&agent)? == server, "it was started again");
    Ok(())
}

fn unfinished_heads() -> Result<()> {
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {}", "x".repeat(380 * 1024));
    beside_connections(400, head.as_bytes())
}

fn idle_connections() -> Result<()> {
    beside_connections(1_100, b"")
}

/// While an agent is away somebody takes its port, and keeps it: the next one seals, and answers when it is free.
fn a_taken_port() -> Result<()> {
    let first = agent(&serving())?;
    ensure_alive()?;
    first.kill()?;
    let mut taken = None;
    until("the port can be taken", SOON, || {
        taken = TcpListener::bind(("0.0.0.0", PORT)).ok();
        taken.is_some()
    })?;
    let mut second = agent(&serving())?;
    second.wait_for_log(&format!("metricsPort {PORT}"), SOON)?;
    withstand(&second, &probe::path("probe-static")?, || Ok(()))?;
    drop(taken);
    until("it answers", SOON, is_ready)
}

/// An agent that begins looks for its predecessor's files where there are more mounts than anybody has.
fn mounts() -> Result<()> {
    let count = if is_long()? { 65_549 } else { 4_000 };
    let first = agent(&serving())?;
    let (stays, _) = probe::staying("probe-static")?;
    first.kill()?;
    let folder = Scratch::new()?;
    let mut command = Command::new(probe::path("mounts")?);
    let mut mounts = spawn(command.arg(count.to_string()).arg(folder.path()))?;
    let made: usize = mounts.line(MOUNTING)?.parse()?;
    ensure!(made == count, "{made} mounts");
    let mut second = agent(&serving())?;
    withstand(&second, &probe::path("probe-static")?, ensure_alive)?;
    println!(
        "the agent had {} KiB at most",
        status_number(second.pid(), "VmHWM")?
    );
    // It is adopted, when all mounts have been looked at.
    second.wait_for_log("adopted the sealed programs", BESIDES)?;
    let gone = stays.pid();
    drop(stays);
    second.event("EXITED", gone)?;
    Ok(())
}

/// Files under bound names that no agent reads, and some that it reads for long, as many at a time as there may be.
fn files() -> Result<()> {
    const AT_A_TIME: usize = 8;
    let files = Files::new()?;
    let config = files.bound(serving())?;
    let agent = agent(&config)?;
    let mut slow: Vec<Running> = Vec::new();
    withstand(&agent, &files.good, || {
        slow.retain(|program| state(program.pid()).is_some_and(|state| state != 'Z'));
        while slow.len() < AT_A_TIME {
            slow.push(spawn(&mut Command::new(&files.long))?);
        }
        let refused = spawn(&mut Command::new(&files.too_long))?.wait(SOON)?;
        ensure!(!refused.success(), "a file that cannot be read is sealed");
        ensure_alive()
    })
}
