//! Programs that start at once: what all of them take, and whose turn it is.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::pinned;
use kernelseal_integration::probe;
use kernelseal_integration::process::{
    Running, is_traced, run, spawn, state, threads_called, until,
};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use serde_json::Value;
use sidecar_common::layout::MAX_WORKERS;
use sidecar_common::policy::{Held, HeldFlags, RingKey};

use super::SOON;
use super::crowd::{count_events, is_counted};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test(
            "starving::a_flood_delays_itself_alone",
            a_flood_delays_itself_alone,
        )
        .test(
            "starving::every_processor_delivers",
            every_processor_delivers,
        )
        .slow_test(
            "starving::three_hundred_cost_twice_at_most",
            Duration::from_mins(15),
            three_hundred_cost_twice_at_most,
        )
}

/// Far longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// To be run by a shell: the program so often at once, each with its own process, until all have ended.
const AT_ONCE: &str = r#"n=$1; shift; while [ $n -gt 0 ]; do "$@" & n=$((n-1)); done; wait"#;

/// What the same starts take with an agent, from the first to the end of the last.
fn three_hundred_cost_twice_at_most() -> Result<()> {
    const COUNT: usize = 300;
    const PROGRAM: &str = "bench-idle";
    const TIMES: u32 = 2;
    let start_all = || -> Result<Duration> {
        let begin = Instant::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", AT_ONCE, "sh", &COUNT.to_string()]);
        run(shell.arg(probe::path(PROGRAM)?))?;
        Ok(begin.elapsed())
    };
    start_all()?;
    let without = start_all()?;
    for ways in [["env"].as_slice(), &["env", "file"]] {
        let mut agent = Agent::run(&Config::token_for(PROGRAM).delivery(ways))?;
        let with = start_all()?;
        println!("{COUNT} starts at once: {without:?} without an agent, {with:?} with {ways:?}");
        count_events(&mut agent, "SEALED", COUNT, SOON)?;
        ensure!(
            !is_counted() || with <= without * TIMES,
            "{COUNT} starts take {with:?}, {without:?} without an agent"
        );
        ensure!(agent.stop()?.success());
    }
    Ok(())
}

/// As many threads deliver as there are processors, and each has its share of what starts.
fn every_processor_delivers() -> Result<()> {
    const STARTS: usize = 40;
    let mut agent = Agent::run(&Config::token_for("bench-idle").delivery(&["env", "file"]))?;
    let processors = thread::available_parallelism()?.get();
    // (a thread gives itself its name)
    let threads = || threads_called(agent.pid(), "sealer").unwrap_or_default();
    until(
        "as many threads deliver as there are processors",
        SOON,
        || threads().len() == processors.min(MAX_WORKERS),
    )?;
    let threads = threads();
    // (what one start takes of a thread is far more than it takes when there is nothing to do)
    let ran = || -> Result<Vec<u64>> {
        let times = threads.iter().map(|thread| {
            let path = format!("/proc/{}/task/{thread}/schedstat", agent.pid());
            let times = fs::read_to_string(path)?;
            Ok(times.split(' ').next().context("no times")?.parse()?)
        });
        times.collect()
    };
    let before = ran()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", AT_ONCE, "sh", &STARTS.to_string()]);
    run(shell.arg(probe::path("bench-idle")?))?;
    let more: Vec<u64> = ran()?.iter().zip(before).map(|(n, m)| n - m).collect();
    count_events(&mut agent, "SEALED", STARTS, SOON)?;
    let all: u64 = more.iter().sum();
    // (numbers of processes follow on one another, but for those that others take in between)
    ensure!(
        more.iter().all(|one| one * 4 * threads.len() as u64 > all),
        "of {STARTS} starts the threads took {more:?} ns"
    );
    ensure!(agent.stop()?.success());
    Ok(())
}

/// What is held.
fn held() -> Result<Vec<Held>> {
    let held = pinned::hash::<u32, Held>("HELD")?;
    held.iter().map(|entry| Ok(entry?.1)).collect()
}

/// Programs that a shell starts at once, in a control group of its own.
struct Group {
    path: PathBuf,
    shell: Running,
    count: usize,
}

impl Group {
    fn start(name: &str, count: usize) -> Result<Self> {
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu")?;
        fs::create_dir_all(&path)?;
        let mut shell = Command::new("sh");
        let script = format!("echo 0 >{}/cgroup.procs; {AT_ONCE}", path.display());
        shell.args(["-c", &script, "sh", &count.to_string()]);
        shell.arg(probe::path("probe-static")?);
        shell.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
        let shell = spawn(&mut shell)?;
        Ok(Self { path, shell, count })
    }

    /// Whether all of them have come to their exec: those of which the name is still the shell's are held.
    fn is_there(&self) -> Result<bool> {
        let held = held()?;
        let mut there = 0;
        for line in fs::read_to_string(self.path.join("cgroup.procs"))?.lines() {
            let pid: u32 = line.parse()?;
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
            there += usize::from(
                pid != self.shell.pid()
                    && (comm != "sh\n" || held.iter().any(|held| held.pid == pid)),
            );
        }
        Ok(there == self.count)
    }

    /// So many microseconds of each second, all of them together.
    fn gets(&self, time: &str) -> Result<()> {
        fs::write(self.path.join("cpu.max"), format!("{time} 1000000"))?;
        Ok(())
    }

    /// The process that the shell started.
    fn program(&self) -> Result<u32> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs"))?;
        let mut pids = procs.lines().filter_map(|line| line.parse().ok());
        pids.find(|pid| *pid != self.shell.pid())
            .context("the shell started nothing")
    }
}

/// Whether a process that a shell made has not become another program yet, or not wholly.
fn has_yet_to_execute(pid: u32) -> bool {
    let is_shell = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sh\n");
    // (on its way from having its new name to the stop behind the exec it still runs)
    is_shell || matches!(state(pid), Some('R' | 'D'))
}

/// How many of those that a program's thread holds have their secrets before it, which is of another container and comes while they
/// wait. The agent is stopped until it is there.
fn count_ahead(agent: &mut Agent) -> Result<usize> {
    /// Fewer are no queue.
    const ENOUGH: usize = 8;
    /// Longer than the time that it gets.
    const SLOW: Duration = Duration::from_millis(100);
    let mut alone = Group::start("alone", 1)?;
    until("the other one is there", LONG, || {
        alone.is_there().unwrap_or(false)
    })?;
    let pid = alone.program()?;
    // Without a processor in the middle of its exec, as long as the kernel stops it there (to 6.17): nobody attaches to it then,
    // and it has a tracer of its own.
    alone.gets("1000")?;
    thread::sleep(SLOW);
    let tracers = || threads_called(agent.pid(), "tracer").unwrap_or_default();
    let of_others = tracers();
    agent.signal(Signal::SIGCONT)?;
    let is_new = |tracer: &u32| !of_others.contains(tracer);
    until("somebody attaches to it", LONG, || {
        tracers().iter().any(is_new) || is_traced(pid) == Some(true)
    })?;
    let has_its_own = tracers().iter().any(is_new);
    alone.gets("max")?;
    // The flood has its turns until the other one has executed, however long that takes.
    let mut waiting = Vec::new();
    until("the other one waits for its secrets", LONG, || {
        waiting = held().unwrap_or_default();
        !has_yet_to_execute(pid)
    })?;
    let threads = thread::available_parallelism()?.get().min(MAX_WORKERS);
    let worker_of = |pid: u32| RingKey::worker_of(u64::from(pid), threads);
    let mut in_its_way: HashSet<u32> = waiting.iter().map(|held| held.pid).collect();
    in_its_way.retain(|other| *other != pid && worker_of(*other) == worker_of(pid));
    let mut ahead = 0;
    loop {
        let line = agent.next_line(SOON)?.context("it was not told of")?;
        let event: Value = serde_json::from_str(&line)?;
        ensure!(event["type"] != "REFUSED", "{line}");
        if event["type"] != "SEALED" {
            continue;
        }
        if event["pid"] == pid {
            break;
        }
        let other = u32::try_from(event["pid"].as_u64().context("no pid")?)?;
        ahead += usize::from(in_its_way.contains(&other));
    }
    let found = alone.shell.json(LONG)?;
    probe::ensure_both(&found, "hunter2")?;
    ensure!(found["pid"] == pid, "{found} is not of {pid}");
    let beside = in_its_way.len();
    println!(
        "a tracer of its own: {has_its_own}; of {beside} that its thread held, {ahead} had their secrets first"
    );
    ensure!(beside > ENOUGH, "{beside} are held: no queue formed");
    Ok(ahead)
}

/// While many of one container wait, another starts one: that has its turn among the next.
fn a_flood_delays_itself_alone() -> Result<()> {
    const FLOOD: usize = 100;
    /// So many that a delivery takes longer than attaching to one and its exec.
    const SECRETS: usize = 192;
    /// One that is being served as it comes to stand, and a few until we have looked.
    const TURNS: usize = 4;
    let mut config = Config::token_for("probe-static").policy("holdTimeout", "4m");
    for n in 0..SECRETS {
        config = config.value(&format!("SECRET_{n}"), "hunter2");
    }
    let mut agent = Agent::run(&config)?;
    // (stopped before they come: where they come more slowly than they are served there would be no queue)
    agent.signal(Signal::SIGSTOP)?;
    let mut flood = Group::start("flood", FLOOD)?;
    until("the flood is there", LONG, || {
        flood.is_there().unwrap_or(false)
    })?;
    agent.signal(Signal::SIGCONT)?;
    // One that has not executed yet is in nobody's way.
    until("the flood stands behind its execs", LONG, || {
        held().is_ok_and(|held| {
            held.iter()
                .all(|held| !held.flags.contains(HeldFlags::PRE_EXEC))
        })
    })?;
    // (stopped once more: how long the other one takes to come, beside threads of a higher priority, is not the question)
    agent.signal(Signal::SIGSTOP)?;
    let ahead = count_ahead(&mut agent)?;
    ensure!(ahead <= TURNS, "{ahead} were served before it");
    for _ in 0..FLOOD {
        probe::ensure_both(&flood.shell.json(LONG)?, "hunter2")?;
    }
    Ok(())
}
