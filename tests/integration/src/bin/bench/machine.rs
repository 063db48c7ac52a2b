//! What is measured upon: the files, the programs, the agents.

use std::env;
use std::ffi::{CStr, OsStr};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::quiet::Agent;
use kernelseal_integration::{namespace, probe, process};
use serde_json::Value;

/// An ordinary file on a disk's file system.
pub const EXT4_FILE: &CStr = c"/ext4/bench-file";
/// One in a tmpfs that is not ours.
pub const TMPFS_FILE: &CStr = c"/dev/shm/bench-file";
/// A program that no binding names, and two that one names; all the same file.
pub const UNMATCHED: &CStr = c"/opt/bench-unmatched";
pub const ENV_ONLY: &CStr = c"/opt/bench-env";
pub const ENV_AND_FILE: &CStr = c"/opt/bench-file";
/// The agent.
const PROGRAM: &str = "/usr/bin/kernelseal";
const SOON: Duration = Duration::from_mins(1);

/// Makes the files and programs, and lets the random generator be seeded: before that, a start costs more.
pub fn prepare() -> Result<()> {
    File::open("/dev/random")?.read_exact(&mut [0; 16])?;
    // Page tables of the same shape for every program that is started.
    fs::write("/proc/sys/kernel/randomize_va_space", "0")?;
    for file in [EXT4_FILE, TMPFS_FILE] {
        let file = path_of(file);
        fs::write(file, "ordinary").with_context(|| format!("cannot write {}", file.display()))?;
    }
    // (where root alone may write, as programs are installed)
    let idle = probe::path("bench-idle")?;
    fs::create_dir_all("/opt")?;
    for program in [UNMATCHED, ENV_ONLY, ENV_AND_FILE] {
        fs::copy(&idle, path_of(program))?;
    }
    Ok(())
}

/// Lets the kernel end what it does in the background, such as freeing what was unloaded. Idle time costs nothing here.
pub fn settle() {
    thread::sleep(Duration::from_secs(10));
}

/// How large the agent's program is, in bytes.
pub fn size_of_program() -> Result<u64> {
    Ok(fs::metadata(PROGRAM)?.len())
}

/// Takes the kernel side away.
pub fn clean_up() -> Result<()> {
    process::run(Command::new(PROGRAM).arg("cleanup")).map(drop)
}

fn path_of(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// The configuration of the agent that is measured.
pub fn config() -> String {
    watching("")
}

/// The same with a key more of `monitoring`.
pub fn watching(monitor: &str) -> String {
    let binding = |program: &str, delivery: &str| {
        format!(
            "  - name: {program}\n    selector: {{binary: {program}}}\n    delivery: {delivery}\n    \
             secretRefs:\n      - name: PGPASSWORD\n        source: {{value: hunter2}}\n"
        )
    };
    format!(
        "version: v1\nmonitoring:\n  metricsPort: 0\n  {monitor}\nsecrets:\n{}{}{}",
        binding("bench-env", "[env]"),
        binding("bench-file", "[env, file]"),
        binding("probe-static", "[env, file]")
    )
}

/// Starts an agent in this PID namespace whose events and log go to files, so that nobody's reading them is measured.
pub fn start_agent(config: &str) -> Result<Agent> {
    start_agent_as(Command::new(PROGRAM), "host", config)
}

fn start_agent_as(command: Command, name: &str, config: &str) -> Result<Agent> {
    let folder = env::temp_dir().join(format!("bench-agent-{name}"));
    Agent::start_as(command, folder, config)
}

/// An agent's resident memory, when it has come to rest.
pub fn resident_kib(agent: &Agent) -> Result<u64> {
    thread::sleep(Duration::from_secs(2));
    process::resident_kib(agent.pid())
}

/// How long the agent's threads have run so far, in nanoseconds.
pub fn ran_ns(agent: &Agent) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let times = fs::read_to_string(thread?.path().join("schedstat"))?;
        let ran = times.split(' ').next().context("no times")?;
        sum += ran.parse::<u64>()?;
    }
    Ok(sum)
}

/// A process that lives while others are measured: sealed, or for the base as ordinary as any. Its being there makes
/// a spawn dearer by itself.
pub struct Bystander {
    _running: process::Running,
}

impl Bystander {
    /// Starts it while no agent runs.
    pub fn start() -> Result<Self> {
        Self::start_with(&Value::Null)
    }

    /// Starts it with an agent, and makes sure that it was sealed.
    pub fn start_sealed() -> Result<Self> {
        Self::start_with(&"hunter2".into())
    }

    fn start_with(password: &Value) -> Result<Self> {
        let mut command = probe::command("probe-static")?;
        let mut running = process::spawn(command.args(["--env", "PGPASSWORD", "--sleep", "3600"]))?;
        let report = running.json(SOON)?;
        ensure!(
            report["env"]["PGPASSWORD"] == *password,
            "the agent does not seal, or one is there: {report}"
        );
        Ok(Self { _running: running })
    }
}

/// Agents that each have a PID namespace of their own.
pub struct Crowd {
    _agents: Vec<Agent>,
}

impl Crowd {
    pub fn start(size: usize) -> Result<Self> {
        let agents = (0..size)
            .map(|number| {
                let command = namespace::in_pid_namespace(PROGRAM);
                start_agent_as(command, &number.to_string(), &config())
                    .with_context(|| format!("agent {number} of {size}"))
            })
            .collect::<Result<_>>()?;
        Ok(Self { _agents: agents })
    }
}

/// From exec to release, as the agent tells it.
pub struct Held {
    lines: Vec<String>,
}

impl Held {
    pub fn from_events(events: &[Value]) -> Result<Self> {
        let lines = ["bench-env", "bench-file"]
            .into_iter()
            .map(|program| {
                let mut held: Vec<u64> = events
                    .iter()
                    .filter(|event| event["type"] == "SEALED" && event["process"] == program)
                    .filter_map(|event| event["held_us"].as_u64())
                    .collect();
                held.sort_unstable();
                let at = |percent: usize| held.get(held.len().saturating_sub(1) * percent / 100);
                let (Some(p50), Some(p99)) = (at(50), at(99)) else {
                    bail!("no SEALED event of {program}");
                };
                Ok(format!(
                    "exec to release, {program}: p50 {p50} us, p99 {p99} us, of {}",
                    held.len()
                ))
            })
            .collect::<Result<_>>()?;
        Ok(Self { lines })
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}
