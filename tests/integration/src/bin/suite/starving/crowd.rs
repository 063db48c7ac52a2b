//! Many programs at a time, that live.

use std::env;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::leftovers;
use kernelseal_integration::pinned;
use kernelseal_integration::probe;
use kernelseal_integration::process::{descriptors, resident_kib, stopped, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

use super::{PLACE, SOON, agent_after};
use crate::observe::{PORT, get};

/// What an agent may take, however many programs live that it sealed, in KiB.
const MEMORY_LIMIT: u64 = 24 * 1024;
/// Calls of which the cheapest sample counts.
const SAMPLES: usize = 40;
const OPENS: u32 = 50;

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test(
            "starving::a_living_tree_takes_no_descriptor",
            a_living_tree_takes_no_descriptor,
        )
        .slow_test(
            "starving::three_thousand_at_once",
            Duration::from_mins(15),
            three_thousand_at_once,
        )
        .slow_test(
            "starving::a_crowd_that_lives",
            Duration::from_hours(3),
            a_crowd_that_lives,
        )
}

/// Whether a nanosecond is an instruction here (`guest run --icount`): figures repeat, and may be held to a limit.
pub(super) fn is_counted() -> bool {
    env::var_os("KERNELSEAL_COUNTED").is_some()
}

/// An agent that was given so many descriptors: soft limit, hard limit.
fn agent(config: &Config, soft: u32, hard: u32) -> Result<Agent> {
    agent_after(&format!("ulimit -Sn {soft} && ulimit -Hn {hard}"), config)
}

/// Programs that stay until this is dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn start(&mut self, count: usize) -> Result<()> {
        let path = probe::path("probe-static")?;
        for _ in 0..count {
            let mut command = probe::asked_for_token(&path);
            command.args(["--sleep", "100000"]);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            self.0.push(command.spawn().context("start one")?);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for child in &mut self.0 {
            child.kill()?;
        }
        for mut child in self.0.drain(..) {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Reads events until so many of a type came; one of `REFUSED` or `DROPPED` is an error.
pub(super) fn count_events(
    agent: &mut Agent,
    kind: &str,
    count: usize,
    timeout: Duration,
) -> Result<()> {
    let begin = Instant::now();
    let mut found = 0;
    while found < count {
        let left = timeout.saturating_sub(begin.elapsed());
        let Some(line) = agent.next_line(left)? else {
            bail!("{found} of {count} {kind} within {timeout:?}");
        };
        let event: Value = serde_json::from_str(&line)?;
        let of = event["type"].as_str().unwrap_or_default();
        ensure!(of != "REFUSED" && of != "DROPPED", "{line}");
        found += usize::from(of == kind);
    }
    Ok(())
}

/// Starts so many, some at a time, each of which is sealed.
fn start_all(agent: &mut Agent, crowd: &mut Crowd, count: usize) -> Result<()> {
    const AT_A_TIME: usize = 20;
    let mut left = count;
    while left > 0 {
        let some = left.min(AT_A_TIME);
        crowd.start(some)?;
        count_events(agent, "SEALED", some, Duration::from_mins(1))?;
        left -= some;
    }
    Ok(())
}

/// Folders of secret files, and their mounts.
fn folders() -> usize {
    fs::read_dir(PLACE).map_or(0, Iterator::count)
}

fn mounts() -> Result<usize> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().filter(|line| line.contains(PLACE)).count())
}

/// What is in the kernel side's maps; nothing, where it is not loaded.
fn in_maps() -> Result<Vec<String>> {
    if fs::read_dir(pinned::PINS).map_or(0, Iterator::count) == 0 {
        return Ok(Vec::new());
    }
    leftovers::in_maps()
}

/// Processes of these names.
fn named(names: &[&str]) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names_of = entries.filter_map(|entry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let name = name.trim_end();
        names
            .contains(&name)
            .then(|| format!("{} {name}", entry.file_name().display()))
    });
    names_of.collect()
}

/// Nanoseconds of one open and close: the cheapest of some.
fn open_and_close(path: &str) -> Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..SAMPLES {
        let begin = Instant::now();
        for _ in 0..OPENS {
            drop(fs::File::open(path)?);
        }
        least = least.min(u64::try_from(begin.elapsed().as_nanos())? / u64::from(OPENS));
    }
    Ok(least)
}

/// The same of an ordinary file and of one in procfs.
fn opens() -> Result<[u64; 2]> {
    Ok([
        open_and_close("/etc/kernelseal-crowd")?,
        open_and_close("/proc/1/stat")?,
    ])
}

/// A gauge of the agent's.
fn gauge(name: &str) -> Result<u64> {
    let (_, body) = get("/metrics")?;
    let mut lines = body.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.find_map(|rest| rest.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}

/// A life of many at a time: sealed, all brought up to another value, ended; nothing is left.
fn many(count: usize, soft: u32, hard: u32) -> Result<()> {
    /// Looked at seldom: where there are ten thousand mounts each look is a megabyte.
    const BETWEEN: Duration = Duration::from_secs(1);
    const PROGRAM: &str = "probe-static";
    let before = (
        mounts()?,
        folders(),
        in_maps()?,
        named(&["kernelseal", PROGRAM]),
    );
    fs::write("/etc/kernelseal-crowd", "ordinary")?;
    let folder = Scratch::new()?;
    let source = folder.file("source", "hunter2")?;
    let config = Config::seal(PROGRAM)
        .secret("TOKEN", json!({"fileRef": source.to_string_lossy()}))
        .monitoring("enabled", true)
        .monitoring("metricsPort", PORT);
    let mut agent = agent(&config, soft, hard)?;
    let mut crowd = Crowd::new();
    start_all(&mut agent, &mut crowd, 1)?;
    let (resident, open) = (resident_kib(agent.pid())?, descriptors(agent.pid())?);
    let opens_with_one = opens()?;

    let begin = Instant::now();
    start_all(&mut agent, &mut crowd, count - 1)?;
    let now = descriptors(agent.pid())?;
    println!(
        "with {count}, after {:?}: {now} descriptors ({open} with one), {} KiB ({resident} with one)",
        begin.elapsed(),
        resident_kib(agent.pid())?
    );
    ensure!(now <= open, "{now} descriptors, {open} with one program");
    ensure!(mounts()? == before.0 + count, "{} mounts", mounts()?);
    ensure!(gauge("kernelseal_sealed_processes")? == count as u64);
    let opens_with_all = opens()?;
    println!("open+close, ns: {opens_with_one:?} with one, {opens_with_all:?} with all");
    for (one, all) in opens_with_one.into_iter().zip(opens_with_all) {
        // (a hundredth is what figures repeat to)
        ensure!(
            !is_counted() || all <= one + one / 100,
            "an open takes {all} instructions, {one} with one program"
        );
    }

    let begin = Instant::now();
    let new = folder.file("new", "another")?;
    fs::rename(new, source)?;
    count_events(&mut agent, "ROTATED", count, Duration::from_mins(30))?;
    let resident = resident_kib(agent.pid())?;
    println!(
        "all rotated in {:?}: {} descriptors, {resident} KiB",
        begin.elapsed(),
        descriptors(agent.pid())?
    );
    ensure!(resident <= MEMORY_LIMIT, "{resident} KiB");

    let begin = Instant::now();
    crowd.end()?;
    // (so many ends at once are more than the ring holds: what was lost is looked up)
    let mut is_left = true;
    while is_left && begin.elapsed() < Duration::from_mins(30) {
        thread::sleep(BETWEEN);
        is_left = folders() != before.1 || mounts()? != before.0;
    }
    ensure!(
        !is_left,
        "{} mounts and {} folders are left",
        mounts()?,
        folders()
    );
    println!("all gone in {:?}", begin.elapsed());
    until("its descriptors are closed", SOON, || {
        descriptors(agent.pid()).is_ok_and(|now| now <= open)
    })?;
    for name in ["kernelseal_sealed_processes", "kernelseal_held_programs"] {
        until("its gauges are at 0", SOON, || {
            gauge(name).is_ok_and(|count| count == 0)
        })
        .with_context(|| format!("{name} is {:?}", gauge(name)))?;
    }
    ensure!(agent.stop()?.success());
    ensure!(stopped()?.is_empty(), "{:?}", stopped()?);
    until("its processes are gone", SOON, || {
        named(&["kernelseal", PROGRAM]) == before.3
    })
    .with_context(|| format!("{:?}", named(&["kernelseal", PROGRAM])))?;
    // (those of the agent's own processes go when the kernel is done with them)
    until("the kernel side's maps are empty", SOON, || {
        in_maps().is_ok_and(|left| left.is_empty() || left == before.2)
    })
    .with_context(|| in_maps().unwrap_or_default().join("\n"))
}

/// 300 of them, with fewer descriptors than that.
fn a_living_tree_takes_no_descriptor() -> Result<()> {
    many(300, 100, 160)
}

/// They come faster than they are served: who waits in the agent's own queue is not late.
fn three_thousand_at_once() -> Result<()> {
    const COUNT: usize = 3_000;
    let before = (mounts()?, folders());
    let config = Config::token_for("probe-static").policy("holdTimeout", "10s");
    let mut agent = agent(&config, 1024, 4096)?;
    let mut crowd = Crowd::new();
    let begin = Instant::now();
    crowd.start(COUNT)?;
    println!("started within {:?}", begin.elapsed());
    count_events(&mut agent, "SEALED", COUNT, Duration::from_mins(10))?;
    println!("sealed within {:?}", begin.elapsed());
    crowd.end()?;
    until("nothing is left", Duration::from_mins(5), || {
        folders() == before.1 && mounts().is_ok_and(|left| left == before.0)
    })
}

fn a_crowd_that_lives() -> Result<()> {
    let count = env::var("KERNELSEAL_CROWD").ok();
    let count = count.map_or(Ok(1_000), |count| count.parse())?;
    many(count, 1024, 4096)
}
