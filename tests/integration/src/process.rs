//! Starts programs, reads their lines as they come, and leaves none behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use sidecar_common::policy::{Held, HeldFlags};

use crate::pinned;

const POLL: Duration = Duration::from_millis(5);

/// Runs a program to its end and gives what it printed; any status but zero is an error.
pub fn run(command: &mut Command) -> Result<String> {
    let name = name_of(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}

/// Starts a program whose standard output is read by lines; its standard error is the test's own.
pub fn spawn(command: &mut Command) -> Result<Running> {
    let name = name_of(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child
        .stdout
        .take()
        .with_context(|| format!("{name} has no standard output"))?;
    Ok(Running {
        lines: lines(stdout),
        child,
        name,
        is_reaped: false,
    })
}

/// Reads a stream on a thread of its own, so that the writer never waits for us.
pub(crate) fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    read_lines(stream, |_| {})
}

/// The same, and each line is printed after the name of who wrote it.
pub(crate) fn lines_shown(
    stream: impl Read + Send + 'static,
    writer: &'static str,
) -> Receiver<String> {
    read_lines(stream, move |line| eprintln!("{writer}: {line}"))
}

fn read_lines(
    stream: impl Read + Send + 'static,
    show: impl Fn(&str) + Send + 'static,
) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            show(&line);
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// A program that runs; dropping it kills it and its process group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    name: String,
    is_reaped: bool,
}

impl Running {
    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub fn line(&mut self, timeout: Duration) -> Result<String> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} printed no line within {timeout:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.wait(timeout)?;
                bail!("{} ended ({status}) without another line", self.name)
            }
        }
    }

    /// The next line it prints, which must be JSON: what the probes in `fixtures/` say first.
    pub fn json(&mut self, timeout: Duration) -> Result<Value> {
        let line = self.line(timeout)?;
        serde_json::from_str(&line)
            .with_context(|| format!("{} printed no JSON: {line}", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        match wait(&mut self.child, timeout)? {
            Some(status) => {
                self.is_reaped = true;
                Ok(status)
            }
            None => bail!("{} did not end within {timeout:?}", self.name),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its children too, also of one that has ended, unless it has been waited for: the number may
        // be another's by now.
        if let (false, Ok(group)) = (self.is_reaped, i32::try_from(self.pid())) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The same program, executed by a shell that was started for it, with the same number: whoever starts it does not wait for
/// its exec, which takes as long as its agent does.
#[must_use]
pub fn by_a_shell(command: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .env_clear()
        .args(["-c", r#"exec "$@""#, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell
}

/// Whether a process, by its number in the initial namespace, waits for its agent before its exec: the kernel side has it on its
/// books.
#[must_use]
pub fn waits_for_agent(pid: u32) -> bool {
    let held = pinned::hash::<u32, Held>("HELD").and_then(|held| Ok(held.get(&pid, 0)?));
    held.is_ok_and(|held| held.flags.contains(HeldFlags::PRE_EXEC))
}

/// The state of a process as `/proc` gives it: `R`, `S`, `T` (stopped), …; nothing when it is gone.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether somebody traces a process; nothing when it is gone.
#[must_use]
pub fn is_traced(pid: u32) -> Option<bool> {
    Some(status_number(pid, "TracerPid").ok()? != 0)
}

/// Who is stopped, by number and name.
pub fn stopped() -> Result<Vec<String>> {
    let mut stopped = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && state(pid) == Some('T')
        {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            stopped.push(format!("{pid} {}", name.trim_end()));
        }
    }
    Ok(stopped)
}

/// A number in a process's `status`, such as `VmRSS` in KiB, or `Threads`.
pub fn status_number(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} tells no {field}"))
}

/// The threads of a process that have that name: their numbers. An error if none has.
pub fn threads_called(process: u32, name: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // (one may end meanwhile)
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            let number = task.file_name();
            found.push(number.to_str().context("no number")?.parse()?);
        }
    }
    ensure!(!found.is_empty(), "{process} has no thread {name}");
    Ok(found)
}

/// A process's resident memory.
pub fn resident_kib(pid: u32) -> Result<u64> {
    status_number(pid, "VmRSS")
}

/// How many descriptors a process has open. `/proc/<pid>/fd` of an agent is guarded; whether one of its files is one
/// of ours may be asked, and is answered with EBADF where there is none.
pub fn descriptors(pid: u32) -> Result<usize> {
    const KCMP_FILE: i32 = 0;
    const OURS: i32 = 0;
    let mut open = 0;
    for theirs in 0..status_number(pid, "FDSize")? {
        let own = std::process::id();
        // SAFETY: a system call on numbers alone.
        let result = unsafe { libc::syscall(libc::SYS_kcmp, own, pid, KCMP_FILE, OURS, theirs) };
        let error = std::io::Error::last_os_error();
        if result >= 0 {
            open += 1;
        } else if error.raw_os_error() != Some(libc::EBADF) {
            return Err(error).context("cannot count its descriptors (kcmp)");
        }
    }
    Ok(open)
}

/// Waits until something holds, and says what it was when it does not come.
pub fn until(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > timeout {
            bail!("not within {timeout:?}: {what}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Waits for a child's end; nothing means that it still runs.
pub(crate) fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        let status = child.try_wait().context("cannot wait for a child")?;
        if status.is_some() || begin.elapsed() > timeout {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{run, spawn};
    use std::process::Command;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_failing_program_is_an_error_with_its_words() {
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no"),
            "{error}"
        );
    }

    #[test]
    fn lines_come_while_it_runs_and_the_end_is_told() {
        let mut shell =
            spawn(Command::new("sh").args(["-c", r#"echo '{"a":1}'; sleep 0.1; exit 4"#])).unwrap();
        assert_eq!(shell.json(SOON).unwrap()["a"], 1);
        assert!(
            shell
                .line(SOON)
                .unwrap_err()
                .to_string()
                .contains("exit status: 4")
        );
    }

    #[test]
    fn a_silent_program_is_named() {
        let mut sleep = spawn(Command::new("sleep").arg("60")).unwrap();
        let error = sleep
            .line(Duration::from_millis(20))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("sleep printed no line"), "{error}");
    }
}
