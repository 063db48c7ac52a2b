//! Nobody starves the agent: many programs that live, and whoever wants to take away what it needs.

use std::env;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe;
use kernelseal_integration::process::{
    descriptors, resident_kib, run, spawn, state, status_number, until,
};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::observe::{PORT, get, serving};

const SOON: Duration = Duration::from_secs(20);
const PLACE: &str = "/run/kernelseal/secrets";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "starving::a_living_tree_takes_no_descriptor",
            a_living_tree_takes_no_descriptor,
        )
        .test("starving::an_error_is_no_mismatch", an_error_is_no_mismatch)
        .test("starving::unfinished_heads", unfinished_heads)
        .test("starving::idle_connections", idle_connections)
        .test("starving::who_serves_is_nobody", who_serves_is_nobody)
        .test("starving::files_without_end", files_without_end)
        .test("starving::mounts_without_number", mounts_without_number)
        .slow_test(
            "starving::three_thousand_at_once",
            Duration::from_mins(15),
            three_thousand_at_once,
        )
        .slow_test(
            "starving::a_crowd_that_lives",
            Duration::from_mins(45),
            a_crowd_that_lives,
        )
}

/// An agent that was given so many descriptors: soft limit, hard limit.
fn agent(config: &Config, soft: u32, hard: u32) -> Result<Agent> {
    let binary = Agent::command(&[]).get_program().to_owned();
    let mut command = Command::new("sh");
    let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(binary);
    Agent::start_as(command, &config.to_string())?.readied()
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
fn count_events(agent: &mut Agent, kind: &str, count: usize, timeout: Duration) -> Result<()> {
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

/// Mounts and folders of secret files.
fn left() -> Result<(usize, usize)> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter(|line| line.contains(PLACE)).count();
    let folders = fs::read_dir(PLACE).map_or(0, Iterator::count);
    Ok((mounts, folders))
}

/// A life of many at a time: sealed, all brought up to another value, ended; nothing is left.
fn many(count: usize, soft: u32, hard: u32) -> Result<()> {
    let before = left()?;
    let folder = Scratch::new()?;
    let source = folder.file("source", "hunter2")?;
    let config =
        Config::seal("probe-static").secret("TOKEN", json!({"fileRef": source.to_string_lossy()}));
    let mut agent = agent(&config, soft, hard)?;
    let mut crowd = Crowd::new();
    start_all(&mut agent, &mut crowd, 1)?;
    let (resident, open) = (resident_kib(agent.pid())?, descriptors(agent.pid())?);

    start_all(&mut agent, &mut crowd, count - 1)?;
    let now = descriptors(agent.pid())?;
    println!(
        "with {count}: {now} descriptors ({open} with one), {} KiB ({resident} with one)",
        resident_kib(agent.pid())?
    );
    ensure!(now <= open, "{now} descriptors, {open} with one program");
    ensure!(left()?.0 == before.0 + count, "{:?}", left()?);

    let begin = Instant::now();
    let new = folder.file("new", "another")?;
    fs::rename(new, source)?;
    count_events(&mut agent, "ROTATED", count, Duration::from_mins(10))?;
    let resident = resident_kib(agent.pid())?;
    println!(
        "all rotated in {:?}: {} descriptors, {resident} KiB",
        begin.elapsed(),
        descriptors(agent.pid())?
    );
    ensure!(resident <= 24 * 1024, "{resident} KiB");

    let begin = Instant::now();
    crowd.end()?;
    // (so many ends at once are more than the ring holds: what was lost is looked up)
    until("nothing is left", Duration::from_mins(10), || {
        left().is_ok_and(|left| left == before)
    })?;
    println!("all gone in {:?}", begin.elapsed());
    until("its descriptors are closed", SOON, || {
        descriptors(agent.pid()).is_ok_and(|now| now <= open)
    })
}

/// 300 of them, with fewer descriptors than that.
fn a_living_tree_takes_no_descriptor() -> Result<()> {
    many(300, 100, 160)
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
    ensure!(!reason.contains("which is not the"), "{reason}");
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
    ensure!(made == COUNT, "{made} mounts");

    let mut second = Agent::run(&Config::token_for("probe-static"))?;
    let (stays, found) = probe::staying("probe-static")?;
    probe::ensure_both(&found, "hunter2")?;
    second.event("SEALED", stays.pid())?;
    let after = status_number(second.pid(), "VmHWM")?;
    println!("{before} KiB, with the mounts {after} KiB");
    ensure!(after <= before + 4096, "{before} KiB, then {after} KiB");
    // It is adopted, when all mounts have been looked at.
    second.wait_for_log("left what it had sealed", Duration::from_mins(1))?;
    let folder = format!("{PLACE}/{}", ends.pid());
    let gone = ends.pid();
    drop(ends);
    second.event("EXITED", gone)?;
    until("its folder goes", SOON, || !Path::new(&folder).exists())
}

/// The process that serves the agent's answers.
fn server_of(agent: &Agent) -> Result<u32> {
    let mut found = None;
    until("it serves", SOON, || {
        found = children(agent.pid()).into_iter().find(|child| {
            fs::read(format!("/proc/{child}/cmdline"))
                .is_ok_and(|words| words.split(|byte| *byte == 0).nth(1) == Some(b"http"))
        });
        found.is_some()
    })?;
    found.context("no process serves")
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| status_number(*pid, "PPid").is_ok_and(|of| of == u64::from(parent)))
        .collect()
}

fn is_ready() -> bool {
    get("/ready").is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
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
    const STARTS: usize = 20;
    let agent = Agent::run(&serving())?;
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
    for _ in 0..STARTS {
        let found = probe::report(&mut probe::asked_for_token(probe::path("probe-static")?))?.1;
        probe::ensure_both(&found, "hunter2")?;
        all.extend(connections(10, head)?);
        ensure!(is_ready(), "a probe has no answer");
    }
    let after = look()?;
    println!("resident memory of both, descriptors: {before:?}, then {after:?}");
    ensure!(
        // (what has ended is wiped two seconds later)
        after[0] <= before[0] + 1024
            && after[1] <= before[1] + 6144
            && after[2] <= before[2] + STARTS as u64,
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

/// It has no variables, no capabilities, no descriptors but its own, and is started again when it is killed.
fn who_serves_is_nobody() -> Result<()> {
    let mut agent = Agent::run(&serving())?;
    ensure!(is_ready());
    let server = server_of(&agent)?;
    let status = fs::read_to_string(format!("/proc/{server}/status"))?;
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        ensure!(status.contains(line), "not `{line}` in\n{status}");
    }
    let user = status.lines().find(|line| line.starts_with("Uid:"));
    ensure!(user == Some("Uid:\t65534\t65534\t65534\t65534"), "{user:?}");
    let open = descriptors(server)?;
    ensure!(open <= 12, "{open} descriptors");
    kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL)?;
    agent.wait_for_log("is started again", SOON)?;
    until("it answers again", SOON, is_ready)?;
    let again = server_of(&agent)?;
    ensure!(again != server);
    agent.stop()?;
    until("it ends with its agent", SOON, || {
        !Path::new(&format!("/proc/{again}")).exists()
    })
}

/// Files under a bound name that are long to read: theirs is the trouble, and no other program waits for it.
fn files_without_end() -> Result<()> {
    const TOO_LONG: u64 = 4 << 40;
    const LONG: u64 = 1 << 30;
    let folder = Scratch::within(Path::new("/ext4"))?;
    let long = |name: &str, length: u64| -> Result<PathBuf> {
        let path = folder.probe("probe-static", name)?;
        fs::OpenOptions::new()
            .write(true)
            .open(&path)?
            .set_len(length)?;
        Ok(path)
    };
    let (too_long, long) = (long("too-long", TOO_LONG)?, long("long", LONG)?);
    let good = folder.probe("probe-static", "good")?;
    let digest = "0".repeat(64);
    let config = Config::token_for("too-long")
        .selector("sha256", digest.as_str())
        .and_seal("long")
        .value("TOKEN", "hunter2")
        .selector("sha256", digest.as_str())
        .and_seal("good")
        .value("TOKEN", "hunter2")
        .selector("sha256", sha256(&good)?)
        .policy("holdTimeout", "20s");
    let mut agent = Agent::run(&config)?;
    let mut refused = spawn(&mut Command::new(too_long))?;
    refused.wait(SOON)?;
    let reason = agent.refusal(refused.pid())?;
    ensure!(reason.contains("no file of more than"), "{reason}");

    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(spawn(&mut Command::new(&long))?);
    }
    for _ in 0..20 {
        let begin = Instant::now();
        let found = probe::report(&mut probe::asked_for_token(&good))?.1;
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

/// All of them are held before the first has its secrets: who waits in the agent's own queue is not late.
fn three_thousand_at_once() -> Result<()> {
    const COUNT: usize = 3_000;
    let before = left()?;
    let config = Config::token_for("probe-static").policy("holdTimeout", "3s");
    let mut agent = agent(&config, 1024, 4096)?;
    let mut crowd = Crowd::new();
    let begin = Instant::now();
    crowd.start(COUNT)?;
    println!("started within {:?}", begin.elapsed());
    count_events(&mut agent, "SEALED", COUNT, Duration::from_mins(10))?;
    println!("sealed within {:?}", begin.elapsed());
    crowd.end()?;
    until("nothing is left", Duration::from_mins(5), || {
        left().is_ok_and(|left| left == before)
    })
}

fn a_crowd_that_lives() -> Result<()> {
    let count = env::var("KERNELSEAL_CROWD").ok();
    let count = count.map_or(Ok(1_000), |count| count.parse())?;
    many(count, 1024, 4096)
}
