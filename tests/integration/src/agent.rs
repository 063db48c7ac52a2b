//! Starts the `kernelseal` agent with a configuration of the test's, and watches what it says.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::config::Config;
use crate::{namespace, process};

/// How long the agent may take to end after SIGTERM.
const END: Duration = Duration::from_secs(10);
/// How long it may take to start. The first one on a machine loads the kernel side.
const READY: Duration = Duration::from_mins(1);
/// How long a test waits for an event that must come.
const SOON: Duration = Duration::from_secs(20);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running agent. Dropping it ends it, and fails the test when it does not end well.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    log: Vec<String>,
    events: Vec<Value>,
    /// Of its configuration, if that was made for it.
    folder: Option<PathBuf>,
    stopped: bool,
}

impl Agent {
    /// Runs `$KERNELSEAL_BIN run --config FILE`, the binary being `/usr/bin/kernelseal` unless told otherwise.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_as(Command::new(Self::binary()), config)
    }

    /// Starts it with a configuration made by the test, and waits until it is at work.
    pub fn run(config: &Config) -> Result<Self> {
        Self::start(&config.to_string())?.readied()
    }

    /// The same agent once it is at work.
    pub fn readied(mut self) -> Result<Self> {
        if let Err(error) = self.ready(READY) {
            // The error says more than its end would.
            self.stopped = true;
            return Err(error);
        }
        Ok(self)
    }

    /// The same as process 1 of a PID namespace of its own.
    pub fn start_in_pid_namespace(config: &str) -> Result<Self> {
        Self::start_as(namespace::in_pid_namespace(Self::binary()), config)
    }

    /// Completes and starts a command that leads to the agent, for tests that need it in an unusual place.
    pub fn start_as(command: Command, config: &str) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            env::temp_dir().join(format!("kernelseal-agent-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("config.yaml");
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let mut agent = Self::start_with(command, &file)?;
        agent.folder = Some(folder);
        Ok(agent)
    }

    /// The same with a configuration that lies somewhere.
    pub fn start_with(mut command: Command, config: &Path) -> Result<Self> {
        command.arg("run").arg("--config").arg(config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start {}; build it and name it in KERNELSEAL_BIN",
                Self::binary().display()
            )
        })?;
        let stdout = child
            .stdout
            .take()
            .context("the agent has no standard output")?;
        let stderr = child
            .stderr
            .take()
            .context("the agent has no standard error")?;
        Ok(Self {
            child,
            stdout: process::lines(stdout),
            stderr: process::lines_shown(stderr, "agent"),
            log: Vec::new(),
            events: Vec::new(),
            folder: None,
            stopped: false,
        })
    }

    /// Waits until it is at work: from then on a program that it watches gets its secrets.
    pub fn ready(&mut self, timeout: Duration) -> Result<()> {
        self.wait_for_log("watching", timeout)
    }

    /// Waits for a line of its log in which `text` is.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        while !self.log_contains(text) {
            let left = timeout.saturating_sub(begin.elapsed());
            match self.stderr.recv_timeout(left) {
                Ok(line) => self.log.push(line),
                Err(why) => bail!(
                    "the agent did not log `{text}` ({why}); it logged:\n{}",
                    self.log.join("\n")
                ),
            }
        }
        Ok(())
    }

    /// Whether `text` is in what it has logged until now.
    pub fn log_contains(&mut self, text: &str) -> bool {
        self.log().iter().any(|line| line.contains(text))
    }

    /// The lines of its log until now.
    pub fn log(&mut self) -> &[String] {
        self.log.extend(self.stderr.try_iter());
        &self.log
    }

    /// Runs it with a configuration it must not start on; gives its status and its standard error.
    pub fn expect_failure(config: &str) -> Result<(ExitStatus, String)> {
        Self::start(config)?.failure()
    }

    /// Waits for the end of an agent that must not start; gives its status and its standard error.
    pub fn failure(mut self) -> Result<(ExitStatus, String)> {
        self.stopped = true;
        let Some(status) = process::wait(&mut self.child, READY)? else {
            bail!("the agent started, and was not expected to");
        };
        ensure!(!status.success(), "the agent ended as if all were well");
        // Until the stream's end.
        self.log.extend(self.stderr.iter());
        Ok((status, self.log.join("\n")))
    }

    /// A command that runs the agent's program, for its other uses: `check`, `status`, …
    #[must_use]
    pub fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(Self::binary());
        command.args(arguments);
        command
    }

    #[must_use]
    pub fn binary() -> PathBuf {
        env::var_os("KERNELSEAL_BIN").map_or_else(|| "/usr/bin/kernelseal".into(), PathBuf::from)
    }

    /// The number of the process that was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first event, of those seen already and those to come, for which `wanted` holds.
    pub fn wait_for(
        &mut self,
        wanted: impl Fn(&Value) -> bool,
        timeout: Duration,
    ) -> Result<Value> {
        if let Some(event) = self.events.iter().find(|event| wanted(event)) {
            return Ok(event.clone());
        }
        let begin = Instant::now();
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            match self.next_event(left) {
                Ok(Some(event)) if wanted(&event) => return Ok(event),
                Ok(Some(_)) => {}
                Ok(None) => bail!(
                    "the event did not come within {timeout:?}; there were:\n{}",
                    self.listing()
                ),
                Err(error) => {
                    return Err(error.context(format!("events so far:\n{}", self.listing())));
                }
            }
        }
    }

    /// The first event of a type and a process.
    pub fn event(&mut self, kind: &str, pid: u32) -> Result<Value> {
        self.wait_for(|event| event["type"] == kind && event["pid"] == pid, SOON)
            .with_context(|| format!("{kind} of process {pid}"))
    }

    /// The reason why a process was refused its secrets.
    pub fn refusal(&mut self, pid: u32) -> Result<String> {
        let event = self.event("REFUSED", pid)?;
        Ok(event["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// All events that came until now, and in the next `settle`.
    pub fn events(&mut self, settle: Duration) -> Result<&[Value]> {
        let begin = Instant::now();
        while self
            .next_event(settle.saturating_sub(begin.elapsed()))?
            .is_some()
        {}
        Ok(&self.events)
    }

    /// The next event; nothing when none came in time. Anything but JSON on standard output is an error.
    fn next_event(&mut self, timeout: Duration) -> Result<Option<Value>> {
        let Some(line) = self.next_line(timeout)? else {
            return Ok(None);
        };
        let event: Value = serde_json::from_str(&line)
            .with_context(|| format!("the agent printed no event: {line}"))?;
        println!("event: {line}");
        self.events.push(event.clone());
        Ok(Some(event))
    }

    /// The next line on standard output, not kept among the events: of a flood, which is counted and not looked at.
    pub fn next_line(&mut self, timeout: Duration) -> Result<Option<String>> {
        match self.stdout.recv_timeout(timeout) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => match process::wait(&mut self.child, END)? {
                Some(status) => bail!("the agent ended: {status}"),
                None => bail!("the agent closed its standard output"),
            },
        }
    }

    fn listing(&self) -> String {
        let lines: Vec<String> = self.events.iter().map(Value::to_string).collect();
        lines.join("\n")
    }

    /// Sends it a signal. If it is to stop, it has when this returns: on a busy machine its threads go on for a moment.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        const SOON: Duration = Duration::from_secs(20);
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)
            .context("cannot signal the agent")?;
        if signal == Signal::SIGSTOP {
            process::until("all of the agent is stopped", SOON, || self.is_stopped())?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut numbers = threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|thread| {
                let name = thread.file_name();
                name.to_str()?.parse().ok()
            });
        numbers.all(|number| process::state(number) == Some('T'))
    }

    /// Ends it without asking.
    pub fn kill(mut self) -> Result<()> {
        self.stopped = true;
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// Asks the agent to end, and gives its exit status, whatever that is.
    pub fn stop(self) -> Result<ExitStatus> {
        self.stop_within(END)
    }

    /// The same of one that has something to wait for.
    pub fn stop_within(mut self, limit: Duration) -> Result<ExitStatus> {
        self.stopped = true;
        self.terminate(limit)
    }

    fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait().context("cannot wait for the agent")? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        // A test that stopped it may have failed before it went on.
        self.signal(Signal::SIGCONT)?;
        if let Some(status) = process::wait(&mut self.child, limit)? {
            return Ok(status);
        }
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot wait for the agent")?;
        bail!("the agent did not end within {limit:?} of SIGTERM and was killed")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let result = self.terminate(END);
        // Until the stream's end, so that all of it is shown with a test that failed.
        self.stderr.iter().for_each(drop);
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
        // A second panic would abort and hide the first.
        if !self.stopped && !thread::panicking() {
            let status = result.expect("the agent ends when asked");
            assert!(status.success(), "the agent ended with {status}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Agent;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::process::Command;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(10);

    /// A shell that plays the agent; its arguments are `run --config FILE`.
    fn played_by(script: &str) -> Agent {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "kernelseal"]);
        Agent::start_as(shell, "version: v1").unwrap()
    }

    #[test]
    fn events_are_found_whenever_they_come() {
        let mut agent = played_by(
            r#"trap 'exit 0' TERM
            echo "{\"type\":\"A\",\"arguments\":\"$1 $2\",\"config\":\"$(cat $3)\"}"
            sleep 0.1; echo '{"type":"B"}'
            while :; do sleep 0.05; done"#,
        );
        agent.wait_for(|event| event["type"] == "B", SOON).unwrap();
        let first = agent.wait_for(|event| event["type"] == "A", SOON).unwrap();
        assert_eq!(first["config"], "version: v1");
        assert_eq!(first["arguments"], "run --config");
        let missing = agent
            .wait_for(|event| event["type"] == "C", Duration::from_millis(50))
            .unwrap_err();
        assert!(missing.to_string().contains(r#"{"type":"B"}"#), "{missing}");
    }

    #[test]
    fn standard_output_is_for_events_alone() {
        let mut agent = played_by("trap 'exit 0' TERM; echo hello; while :; do sleep 0.05; done");
        let error = agent.wait_for(|_| true, SOON).unwrap_err();
        assert!(
            format!("{error:#}").contains("printed no event: hello"),
            "{error:#}"
        );
    }

    #[test]
    fn an_early_end_is_told() {
        let mut agent = played_by("exit 3");
        let error = agent.wait_for(|_| true, SOON).unwrap_err();
        assert!(format!("{error:#}").contains("exit status: 3"), "{error:#}");
        assert_eq!(agent.stop().unwrap().code(), Some(3));
    }

    #[test]
    fn a_bad_end_fails_the_test() {
        let mut agent = played_by("trap 'exit 9' TERM; echo {}; while :; do sleep 0.05; done");
        agent.wait_for(|_| true, SOON).unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(agent))).unwrap_err();
        assert!(
            panic
                .downcast_ref::<String>()
                .is_some_and(|text| text.contains("exit status: 9"))
        );
    }
}
