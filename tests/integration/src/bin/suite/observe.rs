//! What the agent tells: events, log, metrics, health; and that nothing is lost in silence.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report, staying};
use kernelseal_integration::process::{self, by_a_shell, state, until, waits_for_agent};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::machine::kernel_version;

const SOON: Duration = Duration::from_secs(20);
pub const PORT: u16 = 19_090;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "observe::every_event_has_its_fields",
            every_event_has_its_fields,
        )
        .test(
            "observe::the_time_is_the_machines",
            the_time_is_the_machines,
        )
        .test("observe::the_node_has_a_name", the_node_has_a_name)
        .test("observe::audit_log", audit_log)
        .test("observe::quiet_log_all_events", quiet_log_all_events)
        .test("observe::log_in_json", log_in_json)
        .test("observe::metrics", metrics)
        .test("observe::a_port_that_is_taken", a_port_that_is_taken)
        .test("observe::exit_codes_and_signals", exit_codes_and_signals)
        .test("observe::a_full_ring", a_full_ring)
        .test("observe::top", top)
}

fn target() -> Result<Command> {
    Ok(asked_for_token(probe::path("probe-static")?))
}

fn refused_by(path: &str) -> bool {
    File::open(path).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// A life with one event of most types.
fn live(agent: &mut Agent) -> Result<()> {
    let (probe, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    let pid = probe.pid();
    ensure!(refused_by(&format!("/proc/{pid}/environ")));
    drop(probe);
    let mut preloaded = process::spawn(target()?.env("LD_PRELOAD", "/lib/x.so"))?;
    preloaded.wait(SOON)?;
    agent.event("REFUSED", preloaded.pid())?;
    agent.event("EXITED", pid)?;
    Ok(())
}

/// What an agent tells, as `kernelseal top` shows it.
fn top() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    live(&mut agent)?;
    let (probe, _) = staying("probe-static")?;
    let events = agent.events(Duration::from_millis(100))?;
    let mut lines: Vec<String> = events.iter().map(Value::to_string).collect();
    lines.push("a line of the log, which is on the same terminal\n".into());
    let lines = lines.join("\n");
    let mut command = Agent::command(&["top"]);
    let mut top = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = top.stdin.take().context("no input")?;
    input.write_all(lines.as_bytes())?;
    drop(input);
    let shown = String::from_utf8(top.wait_with_output()?.stdout)?;
    let pid = probe.pid().to_string();
    let row = |heading: &str| -> Vec<&str> {
        let from = shown.lines().skip_while(|line| !line.starts_with(heading));
        from.skip(1).take_while(|line| !line.is_empty()).collect()
    };
    let sealed = row("SEALED");
    ensure!(
        sealed.len() == 1 && sealed[0].contains(&pid),
        "{lines}\n{shown}"
    );
    let refused = row("NOT ALLOWED");
    for what in ["environ of probe-static", "LD_PRELOAD"] {
        ensure!(
            refused.iter().any(|line| line.contains(what)),
            "{what}: {shown}"
        );
    }
    ensure!(shown.contains("1 lines were no events"), "{shown}");
    Ok(())
}

fn every_event_has_its_fields() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    live(&mut agent)?;
    let events = agent.events(Duration::from_millis(100))?;
    for wanted in ["EXEC", "SEALED", "BLOCKED", "EXITED", "REFUSED"] {
        ensure!(
            events.iter().any(|event| event["type"] == wanted),
            "no {wanted}"
        );
    }
    let of = |kind: &str| events.iter().find(|event| event["type"] == kind);
    let blocked = of("BLOCKED").context("no BLOCKED")?;
    let ours = std::env::current_exe()?;
    ensure!(
        blocked["executable"] == *ours.to_string_lossy(),
        "{blocked}"
    );
    ensure!(blocked["binding"] == "binding-0", "{blocked}");
    let refused = of("REFUSED").context("no REFUSED")?;
    let program = probe::path("probe-static")?;
    ensure!(
        refused["executable"] == *program.to_string_lossy(),
        "{refused}"
    );
    ensure!(refused["binding"] == "binding-0", "{refused}");
    ensure!(refused["parent"]["pid"] == std::process::id(), "{refused}");
    for event in events {
        ensure!(
            event["timestamp"].is_string() && event["node"].is_string(),
            "{event}"
        );
        ensure!(event["pid"].as_u64().is_some_and(|pid| pid > 0), "{event}");
        ensure!(
            event["process"]
                .as_str()
                .is_some_and(|name| !name.is_empty()),
            "{event}"
        );
    }
    Ok(())
}

/// RFC 3339 with a zone, never before the one that caused it.
fn the_time_is_the_machines() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let now = || -> Result<String> {
        process::run(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]))
    };
    let before = now()?;
    live(&mut agent)?;
    let after = now()?;
    for event in agent.events(Duration::from_millis(100))? {
        let time = event["timestamp"].as_str().unwrap_or_default();
        ensure!(time.len() > 20 && time.ends_with('Z'), "{time}");
        let seconds = &time[..19];
        ensure!(
            before.trim() <= seconds && seconds <= after.trim(),
            "{time}"
        );
    }
    Ok(())
}

fn the_node_has_a_name() -> Result<()> {
    for (set, wanted) in [(Some("node-7"), "node-7"), (None, "guest")] {
        let mut command = Agent::command(&[]);
        if let Some(name) = set {
            command.env("NODE_NAME", name);
        }
        let config = Config::token_for("probe-static").to_string();
        let mut agent = Agent::start_as(command, &config)?.readied()?;
        let (probe, _) = report(&mut target()?)?;
        let event = agent.event("SEALED", probe.pid())?;
        let host = nix::unistd::gethostname()?;
        let wanted = set.map_or_else(|| host.to_string_lossy(), |_| wanted.into());
        ensure!(event["node"] == *wanted, "{event}");
    }
    Ok(())
}

fn audit_log() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.file("log/audit.log", "{\"earlier\":true}\n")?;
    let config = Config::token_for("probe-static")
        .monitoring("auditLog", path.to_string_lossy().into_owned());
    let mut agent = Agent::run(&config)?;
    live(&mut agent)?;
    let events = agent.events(Duration::from_millis(100))?.to_vec();
    let lines = fs::read_to_string(&path)?;
    let logged: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        logged[0]["earlier"] == true && logged[1..] == events,
        "{lines}"
    );
    Ok(())
}

fn quiet_log_all_events() -> Result<()> {
    let config = Config::token_for("probe-static").monitoring("logLevel", "error");
    let mut agent = Agent::start(&config.to_string())?;
    // It does not say when it is ready; it is when a program gets its secrets.
    until("it seals", Duration::from_mins(1), || {
        report(&mut target().expect("it was there"))
            .is_ok_and(|(_, found)| ensure_both(&found, "hunter2").is_ok())
    })?;
    live(&mut agent)?;
    agent.wait_for(|event| event["type"] == "BLOCKED", SOON)?;
    ensure!(!agent.log_contains(""), "it logged something");
    Ok(())
}

fn log_in_json() -> Result<()> {
    let config = Config::token_for("probe-static").monitoring("logFormat", "json");
    let mut agent = Agent::run(&config)?;
    live(&mut agent)?;
    agent.wait_for_log("refused", SOON)?;
    for line in agent.log() {
        let line: Value = serde_json::from_str(line).with_context(|| line.clone())?;
        ensure!(
            line["level"].is_string() && line["timestamp"].is_string(),
            "{line}"
        );
    }
    Ok(())
}

/// Status line and body.
pub fn get(path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The usual configuration, with metrics.
pub fn serving() -> Config {
    Config::token_for("probe-static")
        .monitoring("enabled", true)
        .monitoring("metricsPort", PORT)
}

fn metrics() -> Result<()> {
    let mut agent = Agent::run(&serving())?;
    for path in ["/healthz", "/ready"] {
        let (head, body) = get(path)?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    }
    // What is weaker on this kernel is said.
    let ready = get("/ready")?.1;
    let is_weak = kernel_version()? > (6, 12);
    ensure!(ready.contains("(row 31") == is_weak, "{ready}");
    ensure!(get("/nothing")?.0.starts_with("HTTP/1.1 404"));
    live(&mut agent)?;
    let (head, body) = get("/metrics")?;
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "# TYPE kernelseal_exec_events_total counter",
        "kernelseal_exec_events_total 2",
        "# TYPE kernelseal_secrets_injected_total counter",
        "kernelseal_secrets_injected_total 1",
        "# TYPE kernelseal_access_blocked_total counter",
        "kernelseal_access_blocked_total{access=\"environ\"} 1",
        "kernelseal_access_blocked_total{access=\"secret_file\"} 0",
        "kernelseal_programs_refused_total{reason=\"preload\"} 1",
        "kernelseal_programs_refused_total{reason=\"deadline\"} 0",
        "kernelseal_held_programs 0",
        "kernelseal_events_dropped_total{lost_in=\"kernel\"} 0",
        "kernelseal_sealed_processes 0",
        "# TYPE kernelseal_exec_to_release_seconds histogram",
        "kernelseal_exec_to_release_seconds_count 1",
    ] {
        ensure!(
            body.lines().any(|found| found == line),
            "no `{line}` in\n{body}"
        );
    }
    ensure!(body.contains("kernelseal_access_audit_total{access=\"environ\"} 0"));
    ensure!(body.contains("kernelseal_build_info{"));
    ensure!(!body.contains("hunter2"));
    Ok(())
}

/// Somebody has the port: the agent seals all the same, and answers when it is free.
fn a_port_that_is_taken() -> Result<()> {
    let taken = std::net::TcpListener::bind(("0.0.0.0", PORT))?;
    let mut agent = Agent::run(&serving())?;
    agent.wait_for_log("metricsPort 19090", SOON)?;
    let (_probe, found) = staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    drop(taken);
    until("it answers", SOON, || {
        get("/ready").is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
    })
}

/// Of one that has files, for whose end the agent is woken, and of one that has none, where nothing else happens.
fn exit_codes_and_signals() -> Result<()> {
    for ways in [["env", "file"].as_slice(), &["env"]] {
        let scratch = Scratch::new()?;
        let mut agent = Agent::run(&Config::token_for("app.sh").delivery(ways))?;
        let exits = scratch.program("app.sh", "#!/bin/sh\nexit 7\n")?;
        let mut child = process::spawn(&mut Command::new(&exits))?;
        child.wait(SOON)?;
        ensure!(agent.event("EXITED", child.pid())?["code"] == 7);
        scratch.program("app.sh", "#!/bin/sh\nkill -USR1 $$\n")?;
        let mut child = process::spawn(&mut Command::new(&exits))?;
        child.wait(SOON)?;
        ensure!(agent.event("EXITED", child.pid())?["signal"] == 10);
    }
    Ok(())
}

/// Far more accesses than the ring takes while nobody reads it. The guard guards, a program that
/// starts is held and gets its secrets, and the loss is told.
fn a_full_ring() -> Result<()> {
    let mut agent = Agent::run(&serving())?;
    let (guarded, _) = staying("probe-static")?;
    agent.signal(Signal::SIGSTOP)?;
    until("the agent stops", SOON, || state(agent.pid()) == Some('T'))?;
    let path = format!("/proc/{}/environ", guarded.pid());
    for n in 0..20_000 {
        ensure!(refused_by(&path), "access {n}");
    }
    let mut late = process::spawn(&mut by_a_shell(target()?.args(["--sleep", "600"])))?;
    until("it is held", SOON, || waits_for_agent(late.pid()))?;
    let (gone, folder) = (
        guarded.pid(),
        format!("/run/kernelseal/secrets/{}", guarded.pid()),
    );
    drop(guarded);
    agent.signal(Signal::SIGCONT)?;
    ensure_both(&late.json(SOON)?, "hunter2")?;
    agent.event("SEALED", late.pid())?;
    let dropped = agent.wait_for(
        |event| event["type"] == "DROPPED" && event["lost_in"] == "kernel",
        SOON,
    )?;
    ensure!(
        dropped["count"].as_u64().is_some_and(|count| count > 1000),
        "{dropped}"
    );
    let (_, body) = get("/metrics")?;
    ensure!(
        !body.contains("kernelseal_events_dropped_total{lost_in=\"kernel\"} 0"),
        "{body}"
    );
    // Its end was among what was lost; its files go all the same.
    until("its files go", SOON, || {
        !fs::exists(&folder).unwrap_or(true)
    })
    .with_context(|| format!("of process {gone}"))
}
