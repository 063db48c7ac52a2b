//! Whatever gives way, nothing stands open, nothing stays stopped, and it is said.

mod hangs;
mod kernels;
mod late;
mod maps;
mod missed;
mod notes;
mod steps;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report, staying};
use kernelseal_integration::process::{self, Running, run, state, stopped, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::fcntl::{FcntlArg::F_SETPIPE_SZ, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::guardian::guardian_of;
use crate::races::numbers::Setting;

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    let registry = registry
        .test("faults::out_of_memory", out_of_memory)
        .test("faults::no_descriptors", no_descriptors)
        .test("faults::nobody_reads", nobody_reads)
        .test("faults::a_full_disk", a_full_disk)
        .test("faults::the_clock_jumps", the_clock_jumps)
        .test("faults::executes_itself_again_and_again", again_and_again);
    let registry = missed::register(notes::register(steps::register(registry)));
    late::register(hangs::register(kernels::register(maps::register(registry))))
}

fn agent() -> Result<Agent> {
    Agent::run(&Config::token_for("probe-static"))
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

/// Somebody with a lease on a file, whom the kernel asks before anybody else opens it, and who does not answer. Says that it
/// was asked.
fn lease(file: &Path) -> Result<Running> {
    const HOLDER: &str = "import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
file = os.open(sys.argv[1], os.O_RDONLY)
while True:
    try: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError: continue
    break
print('leased', flush=True)
while True:
    signal.sigwait({signal.SIGIO})
    print('asked', flush=True)";
    let mut holder = Command::new("python3");
    let mut holder = process::spawn(holder.args(["-c", HOLDER]).arg(file))?;
    ensure!(holder.line(SOON)? == "leased");
    Ok(holder)
}

/// Else the kernel takes them after 45 seconds.
fn leases_last() -> Result<Setting> {
    Setting::change("/proc/sys/fs/lease-break-time", "600")
}

fn is_guarded(pid: u32) -> bool {
    File::open(format!("/proc/{pid}/environ")).is_err()
}

/// A program that ends with us.
struct Started(Child);

impl Started {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where secret files are mounted.
fn secret_mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| path.starts_with("/run/kernelseal/secrets/"))
        .map(str::to_owned)
        .collect()
}

fn nobody_is_stopped() -> Result<()> {
    until("nobody is stopped", SOON, || {
        stopped().is_ok_and(|stopped| stopped.is_empty())
    })
    .with_context(|| format!("{:?}", stopped()))
}

/// The kernel ends the agent and its guardian for want of memory.
fn out_of_memory() -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/out-of-memory";
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
    let first = agent()?;
    let (old, _) = staying("probe-static")?;
    fs::create_dir_all(GROUP)?;
    for pid in [first.pid().to_string(), guardian_of(&first)?.to_string()] {
        fs::write(format!("{GROUP}/cgroup.procs"), pid)?;
    }
    fs::write(format!("{GROUP}/memory.oom.group"), "1")?;
    fs::write(format!("{GROUP}/memory.max"), "65536")?;
    let mut begun = Vec::new();
    until("the agent is out of memory", SOON, || {
        begun.extend(target().and_then(|mut target| Ok(target.spawn()?)));
        matches!(state(first.pid()), None | Some('Z'))
    })?;
    let status = first.stop()?;
    ensure!(status.signal() == Some(9), "{status}");
    ensure!(is_guarded(old.pid()));
    ensure!(target()?.spawn().is_err(), "no agent, no start");
    let _second = agent()?;
    for mut probe in begun {
        probe.wait()?;
    }
    nobody_is_stopped()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    fs::remove_dir(GROUP)?;
    Ok(())
}

/// Nothing is delivered by halves for want of descriptors, and all goes on when there are some.
fn no_descriptors() -> Result<()> {
    let mut agent = agent()?;
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    let process = rustix::process::Pid::from_raw(agent.pid().cast_signed());
    let few = Rlimit {
        // (fewer than it waits for, and poll(2) itself would refuse)
        current: Some(4),
        ..getrlimit(Resource::Nofile)
    };
    let before = prlimit(process, Resource::Nofile, few)?;
    let mut probe = process::spawn(target()?.args(["--sleep", "600"]))?;
    let status = probe.wait(SOON);
    let reason = agent.refusal(probe.pid());
    prlimit(process, Resource::Nofile, before).context("give it its descriptors back")?;
    ensure!(status?.signal() == Some(9));
    let reason = reason?;
    ensure!(reason.contains("Too many open files"), "{reason}");
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    nobody_is_stopped()
}

/// A log collector that stands still holds up nobody's start, and takes no memory.
fn nobody_reads() -> Result<()> {
    /// Refusals, a line of some 100 bytes in each stream: more than a pipe of a page and the queues hold.
    const REFUSED: usize = 600;
    const PAGE: i32 = 4096;
    let scratch = Scratch::new()?;
    let config = Config::token_for("probe-static")
        .and_seal("forker")
        .secret("GONE", json!({"fileRef": {"path": "/nowhere/at/all"}}));
    let file = scratch.file("config.yaml", config.to_string())?;
    let mut command = Agent::command(&["run", "--config"]);
    let mut deaf = Started(
        command
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?,
    );
    fcntl(deaf.0.stdout.as_ref().expect("a pipe"), F_SETPIPE_SZ(PAGE))?;
    fcntl(deaf.0.stderr.as_ref().expect("a pipe"), F_SETPIPE_SZ(PAGE))?;
    until("it is at work", SOON, || {
        report(&mut target().expect("a fixture"))
            .is_ok_and(|(_, found)| ensure_both(&found, "hunter2").is_ok())
    })?;
    let forker = probe::path("forker")?;
    let before = resident(deaf.pid())?;
    for _ in 0..REFUSED {
        let status = Command::new(&forker).status()?;
        ensure!(status.signal() == Some(9), "{status}");
    }
    ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    let grown = resident(deaf.pid())?.saturating_sub(before);
    ensure!(grown < 4096, "it grew by {grown} KiB");
    ensure!(stopped()?.is_empty());
    kill(Pid::from_raw(deaf.pid().cast_signed()), Signal::SIGTERM)?;
    let (mut out, mut err) = (deaf.0.stdout.take(), deaf.0.stderr.take());
    let log = thread::spawn(move || {
        let mut log = String::new();
        err.as_mut().map(|err| err.read_to_string(&mut log));
        log
    });
    let mut events = String::new();
    out.as_mut().map(|out| out.read_to_string(&mut events));
    ensure!(deaf.0.wait()?.success());
    let log = log.join().expect("reading does not panic");
    ensure!(events.contains("REFUSED") && log.contains("/nowhere/at/all"));
    Ok(())
}

/// KiB of a process's memory that are in use.
fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.context("no VmRSS")?.split_whitespace().next();
    Ok(words.unwrap_or_default().parse()?)
}

/// The audit log's disk is full: it is said, and everything else goes on.
fn a_full_disk() -> Result<()> {
    let scratch = Scratch::new()?;
    let options = Some("size=8k");
    mount(
        None::<&str>,
        scratch.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )?;
    let log = scratch.path().join("audit.log");
    let config = Config::token_for("probe-static").monitoring("auditLog", log.to_string_lossy());
    let mut agent = Agent::run(&config)?;
    for _ in 0..40 {
        ensure_both(&report(&mut target()?)?.1, "hunter2")?;
    }
    agent.wait_for_log("events are lost: the audit log", SOON)?;
    let (last, _) = report(target()?.args(["--sleep", "600"]))?;
    agent.event("SEALED", last.pid())?;
    // Where there is room again, it goes on by a whole line, and says what it lacks.
    fs::rename(&log, scratch.path().join("audit.log.1"))?;
    fs::remove_file(scratch.path().join("audit.log.1"))?;
    report(&mut target()?)?;
    let gap = || -> Result<bool> {
        let text = fs::read_to_string(&log)?;
        let first = text.lines().next().context("nothing yet")?;
        let first: serde_json::Value = serde_json::from_str(first)?;
        Ok(first["type"] == "DROPPED" && first["lost_in"] == "audit_log")
    };
    until("it goes on", SOON, || gap().unwrap_or(false))?;
    ensure!(agent.stop()?.success());
    Ok(nix::mount::umount(scratch.path())?)
}

/// A day forward, two days back: nobody is held too long, and nobody is given up.
fn the_clock_jumps() -> Result<()> {
    const DAY: i64 = 24 * 3600;
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let agent = agent()?;
    let mut all = crate::lifecycle::held(&agent, 2)?;
    clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::seconds(DAY))?;
    agent.signal(Signal::SIGCONT)?;
    let served = all.iter_mut().try_for_each(|probe| {
        clock_settime(ClockId::CLOCK_REALTIME, now - TimeSpec::seconds(DAY))?;
        ensure_both(&probe.json(SOON)?, "hunter2")
    });
    let last = report(&mut target()?);
    clock_settime(ClockId::CLOCK_REALTIME, now)?;
    served?;
    ensure_both(&last?.1, "hunter2")
}

/// Each time it is held, judged and served anew, and nothing is left of the times before.
fn again_and_again() -> Result<()> {
    const TIMES: u32 = 200;
    let scratch = Scratch::new()?;
    let script = scratch.program(
        "again.sh",
        "#!/bin/sh\nn=$1\n[ \"$n\" -gt 0 ] && exec \"$0\" $((n - 1))\necho \"$TOKEN $(cat \"$KERNELSEAL_SECRETS_DIR/TOKEN\")\"\nexec sleep 600\n",
    )?;
    let agent = Agent::run(&Config::token_for("again.sh"))?;
    let mut all: Vec<Running> = (0..2)
        .map(|_| process::spawn(Command::new(&script).arg(TIMES.to_string())))
        .collect::<Result<_>>()?;
    for running in &mut all {
        let line = running.line(Duration::from_mins(1))?;
        ensure!(line == "hunter2 hunter2", "{line}");
    }
    // (a folder is named by the number, and by that and a count where the one before is not gone yet)
    let of = |running: &Running| {
        let path = format!("/run/kernelseal/secrets/{}", running.pid());
        let counted = format!("{path}-");
        let mounts = secret_mounts().into_iter();
        mounts
            .filter(|mount| *mount == path || mount.starts_with(&counted))
            .count()
    };
    until("earlier files are gone", SOON, || {
        all.iter().all(|running| of(running) == 1)
    })?;
    // (a process is counted until the kernel frees it, which is a moment after its end: the `cat` above)
    let pid = format!(" {} ", agent.pid());
    until("the two alone are counted", SOON, || {
        let status = run(&mut Agent::command(&["status"])).unwrap_or_default();
        let line = status.lines().find(|line| line.contains(&pid));
        line.and_then(|line| line.split_whitespace().nth(3)) == Some("2")
    })
}
