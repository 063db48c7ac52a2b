//! What becomes of events that cannot be written, by the whole program, in the mode that needs no kernel side.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Until then, what is to happen has happened.
const SOON: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);

struct Agent {
    child: Child,
    port: u16,
    dir: TempDir,
    config: String,
    edits: u32,
}

impl Agent {
    fn start(audit_log: &Path, dir: TempDir, stdout: Stdio) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let text = format!(
            "version: v1\npolicy: {{mode: disabled}}\nmonitoring: {{metricsPort: {port}, auditLog: {}}}\n",
            audit_log.display()
        );
        fs::write(dir.path().join("config.yaml"), &text).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
            .args(["run", "--config"])
            .arg(dir.path().join("config.yaml"))
            .env_clear()
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            dir,
            config: text,
            edits: 0,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// An edit of the configuration, which is an event.
    fn edit(&mut self) {
        self.edits += 1;
        let text = format!("{}secretsDir: /nowhere/{}\n", self.config, self.edits);
        fs::write(self.dir.path().join("config.yaml"), text).unwrap();
    }

    fn metrics(&self) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }

    fn lost_in(&self, lost_in: &str) -> u64 {
        let metrics = self.metrics().unwrap_or_default();
        let series = format!("kernelseal_events_dropped_total{{lost_in=\"{lost_in}\"}} ");
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix(&series));
        count.map_or(0, |count| count.parse().unwrap())
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < SOON, "not {what}\n{}", self.log());
            sleep(STEP);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let audit_log = dir.path().join("audit/audit.log");
    (dir, audit_log)
}

#[test]
fn stdout_that_was_closed_is_said_once_and_counted_and_the_agent_goes_on() {
    let (dir, audit_log) = folder();
    // (closed before it starts: its first event may be written at once)
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut agent = Agent::start(&audit_log, dir, writer.into());
    agent.until("lost", || agent.lost_in("stdout") >= 1);
    for _ in 0..2 {
        let before = agent.lost_in("stdout");
        agent.edit();
        agent.until("lost", || agent.lost_in("stdout") > before);
    }
    assert_eq!(agent.child.try_wait().unwrap(), None);
    let log = agent.log();
    assert_eq!(log.matches("events are lost").count(), 1, "{log}");
    assert!(log.contains("standard output: Broken pipe"), "{log}");
    // (the other output has them all)
    assert_eq!(agent.lost_in("audit_log"), 0);
    let audited = fs::read_to_string(&audit_log).unwrap();
    assert_eq!(audited.matches("config_reloaded").count(), 2, "{audited}");
}

#[test]
fn audit_log_on_a_full_disk_is_counted() {
    let (dir, _) = folder();
    let agent = Agent::start(Path::new("/dev/full"), dir, Stdio::null());
    agent.until("lost", || agent.lost_in("audit_log") >= 1);
    assert!(agent.log().contains("No space left"), "{}", agent.log());
    assert_eq!(agent.lost_in("stdout"), 0);
}

#[test]
fn audit_log_that_was_moved_is_begun_anew() {
    let (dir, audit_log) = folder();
    let mut agent = Agent::start(&audit_log, dir, Stdio::null());
    let holds = |path: &Path, action: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(action))
    };
    agent.until("started", || holds(&audit_log, "\"started\""));
    let moved = audit_log.with_extension("log.1");
    fs::rename(&audit_log, &moved).unwrap();
    agent.edit();
    agent.until("begun anew", || holds(&audit_log, "config_reloaded"));
    assert!(!holds(&moved, "config_reloaded"));
    // moved and, before there is another event, asked for: as logrotate's postrotate does
    fs::rename(&audit_log, &moved).unwrap();
    let hangup = Command::new("kill")
        .args(["-HUP", &agent.child.id().to_string()])
        .status();
    assert!(hangup.unwrap().success());
    agent.until("made", || audit_log.exists());
}

#[test]
fn agent_that_guards_nothing_tells_its_beginning_its_edits_and_its_end() {
    let (dir, audit_log) = folder();
    let mut agent = Agent::start(&audit_log, dir, Stdio::null());
    let actions = || -> Vec<String> {
        let text = fs::read_to_string(&audit_log).unwrap_or_default();
        let events = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events
            .map(|event| {
                assert_eq!(
                    (&event["type"], &event["mode"]),
                    (&"AGENT".into(), &"disabled".into())
                );
                event["action"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    agent.until("started", || actions().len() == 1);
    agent.edit();
    agent.until("reloaded", || actions().len() == 2);
    fs::write(agent.dir.path().join("config.yaml"), "version: v2\n").unwrap();
    agent.until("rejected", || actions().len() == 3);
    let end = Command::new("kill")
        .arg(agent.child.id().to_string())
        .status();
    assert!(end.unwrap().success());
    assert!(agent.child.wait().unwrap().success());
    let told = ["started", "config_reloaded", "config_rejected", "stopping"];
    assert_eq!(actions(), told);
}
