//! Every key of the policy, on and off.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::{self, Running, run};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const PINS: &str = "/sys/fs/bpf/kernelseal";
const MAPS: [&str; 6] = [
    "maps",
    "smaps",
    "smaps_rollup",
    "numa_maps",
    "pagemap",
    "map_files",
];

/// Adds this module's tests.
pub fn register(mut registry: Registry) -> Registry {
    // (on arm64 there is no such program here)
    if cfg!(target_arch = "x86_64") {
        registry = registry.test("policy::process_vm_of_32_bits", process_vm_of_32_bits);
    }
    registry
        .test("policy::environ", || switch("blockEnviron", open_environ))
        .test("policy::mem", || switch("blockMem", open_memory))
        .test("policy::process_vm", || switch("blockMem", read_memory))
        .test("policy::ptrace", || switch("blockPtrace", attach))
        .test("policy::maps", || {
            MAPS.into_iter()
                .try_for_each(|name| switch("blockMaps", |pid| open(pid, name)).context(name))
        })
        .test("policy::maps_are_open_by_default", maps_are_open_by_default)
        .test("policy::self_read", self_read)
        .test("policy::no_self_read", no_self_read)
        .test("policy::audit_all", audit_all)
        .test("policy::all_programs", all_programs)
        .test("policy::only_bound_programs", only_bound_programs)
        .test("policy::on_failure_deny", on_failure_deny)
        .test("policy::on_failure_allow", on_failure_allow)
        .test("policy::hold_timeout_deny", hold_timeout_deny)
        .test("policy::hold_timeout_allow", hold_timeout_allow)
        .test(
            "policy::audit_mode_allows_and_logs",
            audit_mode_allows_and_logs,
        )
        .test(
            "policy::disabled_attaches_nothing",
            disabled_attaches_nothing,
        )
}

fn open(pid: u32, name: &str) -> io::Result<()> {
    File::open(format!("/proc/{pid}/{name}")).map(drop)
}

fn open_environ(pid: u32) -> io::Result<()> {
    open(pid, "environ")
}

fn open_memory(pid: u32) -> io::Result<()> {
    open(pid, "mem")
}

/// Where the stack is, `stat` tells everybody.
fn read_memory(pid: u32) -> io::Result<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let stack = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(25)?.parse().ok())
        .ok_or_else(|| io::Error::other("no stack in stat"))?;
    let mut byte = [0];
    let remote = [RemoteIoVec {
        base: stack,
        len: 1,
    }];
    process_vm_readv(raw(pid), &mut [IoSliceMut::new(&mut byte)], &remote)?;
    Ok(())
}

fn attach(pid: u32) -> io::Result<()> {
    ptrace::attach(raw(pid))?;
    waitpid(raw(pid), None)?;
    ptrace::detach(raw(pid), None)?;
    Ok(())
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

fn sealed(agent: &mut Agent) -> Result<Running> {
    let (probe, found) = probe::staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    agent.event("SEALED", probe.pid())?;
    Ok(probe)
}

/// The event about an access of ours to the target.
fn access(agent: &mut Agent, kind: &str, target: &Running) -> Result<Value> {
    let (ours, target) = (std::process::id(), target.pid());
    agent.wait_for(
        |event| event["type"] == kind && event["pid"] == ours && event["target_pid"] == target,
        SOON,
    )
}

fn ensure_blocked(result: &io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => bail!("EPERM was expected, not {other:?}"),
    }
}

/// With the key the access fails and is told; without it succeeds, and there is nothing to tell.
fn switch(key: &str, reach: impl Fn(u32) -> io::Result<()>) -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static").policy(key, true))?;
    let target = sealed(&mut agent)?;
    ensure_blocked(&reach(target.pid()))?;
    let event = access(&mut agent, "BLOCKED", &target)?;
    ensure!(
        event["verdict"] == "blocked" && event["uid"] == 0,
        "{event}"
    );
    drop((target, agent));
    let mut agent = Agent::run(&Config::token_for("probe-static").policy(key, false))?;
    let target = sealed(&mut agent)?;
    reach(target.pid()).with_context(|| format!("{key} is false"))?;
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(!events.iter().any(|event| event["type"] == "BLOCKED"));
    Ok(())
}

/// By `int 0x80`, where it has another number: it is no less `blockMem`'s.
fn process_vm_of_32_bits() -> Result<()> {
    for is_guarded in [true, false] {
        let config = Config::token_for("probe-static").policy("blockMem", is_guarded);
        let mut agent = Agent::run(&config)?;
        let target = sealed(&mut agent)?;
        let pid = target.pid().to_string();
        let mut attack = Command::new(probe::path("attack")?);
        let told: Value =
            serde_json::from_str(&run(attack.args(["32-process_vm_readv", &pid, "none"]))?)?;
        let errno = if is_guarded { libc::EPERM } else { 0 };
        ensure!(told["errno"] == errno, "guarded: {is_guarded}: {told}");
        if is_guarded {
            agent.wait_for(|event| event["access"] == "process_vm", SOON)?;
        }
    }
    Ok(())
}

fn maps_are_open_by_default() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let target = sealed(&mut agent)?;
    for name in MAPS {
        open(target.pid(), name).context(name)?;
    }
    Ok(())
}

/// A sealed script that lets a child of its own read its environment.
fn reads_itself(scratch: &Scratch) -> Result<Command> {
    let body = "#!/bin/sh\nexec 2>&1; cat /proc/$$/environ >/dev/null && echo read\necho $(cat $KERNELSEAL_SECRETS_DIR/TOKEN)\n";
    let mut command = Command::new(scratch.program("app.sh", body)?);
    command.env_clear().env("PATH", "/usr/bin:/bin");
    Ok(command)
}

fn self_read() -> Result<()> {
    let scratch = Scratch::new()?;
    let _agent = Agent::run(&Config::token_for("app.sh"))?;
    let text = run(&mut reads_itself(&scratch)?)?;
    ensure!(text == "read\nhunter2\n", "{text}");
    Ok(())
}

/// The files are its own all the same.
fn no_self_read() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut agent = Agent::run(&Config::token_for("app.sh").policy("allowSelfRead", false))?;
    let text = run(&mut reads_itself(&scratch)?)?;
    ensure!(
        text.contains("Operation not permitted") && text.ends_with("\nhunter2\n"),
        "{text}"
    );
    let blocked = agent.wait_for(|event| event["type"] == "BLOCKED", SOON)?;
    ensure!(blocked["access"] == "environ", "{blocked}");
    Ok(())
}

fn audit_all() -> Result<()> {
    let scratch = Scratch::new()?;
    for on in [true, false] {
        let config = Config::token_for("app.sh").policy("auditAll", on);
        let mut agent = Agent::run(&config)?;
        run(&mut reads_itself(&scratch)?)?;
        let events = agent.events(Duration::from_millis(200))?;
        let allowed: Vec<_> = events
            .iter()
            .filter(|event| event["type"] == "AUDIT" && event["verdict"] == "allowed")
            .map(|event| event["access"].as_str().unwrap_or_default())
            .collect();
        ensure!(allowed.contains(&"environ") == on, "{allowed:?}");
        ensure!(allowed.contains(&"secret_file") == on, "{allowed:?}");
    }
    Ok(())
}

fn all_programs() -> Result<()> {
    let config = Config::token_for("probe-static").policy("kernelBinaryFilter", false);
    let mut agent = Agent::run(&config)?;
    let mut other = process::spawn(&mut Command::new("true"))?;
    other.wait(SOON)?;
    let event = agent.event("EXEC", other.pid())?;
    ensure!(event["process"] == "true" && event["uid"] == 0, "{event}");
    let target = sealed(&mut agent)?;
    agent.event("EXEC", target.pid())?;
    let pid = target.pid();
    let events = agent.events(Duration::from_millis(100))?;
    let execs = events
        .iter()
        .filter(|event| event["type"] == "EXEC" && event["pid"] == pid)
        .count();
    ensure!(execs == 1, "its exec was told {execs} times");
    Ok(())
}

fn only_bound_programs() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    run(&mut Command::new("true"))?;
    sealed(&mut agent)?;
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(!events.iter().any(|event| event["process"] == "true"));
    Ok(())
}

fn failing(policy: &str) -> Config {
    Config::seal("probe-static")
        .secret("TOKEN", json!({"fileRef": "/nowhere"}))
        .policy("onFailure", policy)
}

fn on_failure_deny() -> Result<()> {
    let mut agent = Agent::run(&failing("deny"))?;
    let mut probe = process::spawn(&mut asked_for_token(probe::path("probe-static")?))?;
    ensure!(probe.line(SOON).is_err(), "it started");
    ensure!(agent.event("REFUSED", probe.pid())?["action"] == "killed");
    Ok(())
}

/// It is not sealed: there is nothing to guard.
fn on_failure_allow() -> Result<()> {
    let mut agent = Agent::run(&failing("allow"))?;
    let (probe, found) = probe::staying("probe-static")?;
    ensure_none(&found)?;
    ensure!(agent.event("REFUSED", probe.pid())?["action"] == "started");
    open_environ(probe.pid()).context("nothing was delivered, and yet it is sealed")
}

/// A program so large that its digest takes minutes: the thread that delivers is busy meanwhile.
fn busy(on_failure: &str) -> Result<(Scratch, Agent, Running, Instant)> {
    // (as long as a file may be that is read at all)
    const BYTES: u64 = 1 << 30;
    let scratch = Scratch::within("/ext4".as_ref())?;
    let program = scratch.probe("probe-static", "large")?;
    File::options().write(true).open(&program)?.set_len(BYTES)?;
    let config = Config::token_for("large")
        .selector("sha256", "0".repeat(64))
        .policy("onFailure", on_failure)
        .policy("holdTimeout", "500ms");
    let agent = Agent::run(&config)?;
    let begin = Instant::now();
    let probe = process::spawn(&mut asked_for_token(&program))?;
    Ok((scratch, agent, probe, begin))
}

fn hold_timeout_deny() -> Result<()> {
    let (_scratch, mut agent, mut probe, begin) = busy("deny")?;
    ensure!(probe.line(SOON).is_err(), "it started");
    ensure!(begin.elapsed() < Duration::from_secs(10));
    let reason = agent.refusal(probe.pid())?;
    ensure!(reason.contains("holdTimeout"), "{reason}");
    let status = agent.stop()?;
    ensure!(
        status.success(),
        "with a busy thread it ended with {status}"
    );
    Ok(())
}

fn hold_timeout_allow() -> Result<()> {
    let (_scratch, mut agent, mut probe, begin) = busy("allow")?;
    ensure_none(&probe.json(SOON)?)?;
    ensure!(begin.elapsed() < Duration::from_secs(10));
    ensure!(agent.event("REFUSED", probe.pid())?["action"] == "started");
    let status = agent.stop()?;
    ensure!(
        status.success(),
        "with a busy thread it ended with {status}"
    );
    Ok(())
}

fn audit_mode_allows_and_logs() -> Result<()> {
    let config = Config::token_for("probe-static")
        .policy("mode", "audit")
        .policy("blockMaps", true);
    let mut agent = Agent::run(&config)?;
    let target = sealed(&mut agent)?;
    let pid = target.pid();
    open_environ(pid)?;
    open_memory(pid)?;
    open(pid, "maps")?;
    read_memory(pid)?;
    attach(pid)?;
    let file = fs::read_to_string(format!("/run/kernelseal/secrets/{pid}/TOKEN"))?;
    ensure!(file == "hunter2", "{file}");
    for wanted in ["environ", "mem", "maps", "process_vm", "ptrace"] {
        agent.wait_for(
            |event| {
                event["type"] == "AUDIT"
                    && event["verdict"] == "audit"
                    && event["access"] == wanted
                    && event["target_pid"] == pid
            },
            SOON,
        )?;
    }
    agent.wait_for(
        |event| event["type"] == "AUDIT" && event["access"] == "secret_file",
        SOON,
    )?;
    let events = agent.events(Duration::from_millis(100))?;
    ensure!(!events.iter().any(|event| event["type"] == "BLOCKED"));
    Ok(())
}

fn disabled_attaches_nothing() -> Result<()> {
    // Agents of other tests have left it there.
    if fs::exists(PINS)? {
        run(&mut Agent::command(&["cleanup"]))?;
    }
    let config = Config::token_for("probe-static").policy("mode", "disabled");
    let mut agent = Agent::start(&config.to_string())?;
    agent.wait_for_log("disabled", SOON)?;
    let (_probe, found) = report(&mut asked_for_token(probe::path("probe-static")?))?;
    ensure_none(&found)?;
    ensure!(!fs::exists(PINS)?, "{PINS} is there");
    Ok(())
}
