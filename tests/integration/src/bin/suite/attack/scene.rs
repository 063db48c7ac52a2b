//! An agent, a sealed process with threads and a child, and an attacker next to it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::namespace::{number_inside, process_one};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::{Running, run, spawn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{backwards, lines};

pub const SECRET: &str = "correct-horse-battery-staple-7f3a";
/// Name of the variable and of the file.
pub const FILE: &str = "PGPASSWORD";
const SOON: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(400);
pub const PORT: u16 = 9107;

/// Who is where. The attacker is always next to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Agent and target on the machine itself.
    Machine,
    /// The agent on the machine, the target in a pod.
    PodFromMachine,
    /// Both in one pod.
    InsidePod,
    /// The agent in a pod, the target in another, nested below it.
    BelowPod,
}

/// Everything in its place, and the target sealed.
pub struct Scene {
    // In the order in which they end: a pod's first process takes the others along.
    target: Running,
    agent: Agent,
    place: Place,
    _agents_place: Option<Place>,
    attack: PathBuf,
    /// The target's number where it is, and those the agent has for its processes.
    number: u64,
    known: BTreeSet<u64>,
    events: Vec<Value>,
}

impl Scene {
    /// Starts the agent with a policy, and the target.
    pub fn set(ground: Ground, policy: &str) -> Result<Self> {
        let (agents_place, place) = match ground {
            Ground::Machine => (None, Place::Machine),
            Ground::PodFromMachine | Ground::InsidePod => (None, Place::pod()?),
            Ground::BelowPod => {
                let outer = Place::pod()?;
                let inner = outer.pod_below()?;
                (Some(outer), inner)
            }
        };
        Self::set_in(ground, agents_place, place, policy)
    }

    /// The same in a pod whose process 1 takes its time to end.
    pub fn set_in_a_slow_pod(ground: Ground, policy: &str) -> Result<Self> {
        let first = probe::path("slow_end")?;
        let (agents_place, place) = match ground {
            Ground::Machine => bail!("a machine has no pod"),
            Ground::PodFromMachine | Ground::InsidePod => (None, Place::pod_of(&first)?),
            Ground::BelowPod => {
                let outer = Place::pod()?;
                let inner = outer.pod_below_of(&first)?;
                (Some(outer), inner)
            }
        };
        Self::set_in(ground, agents_place, place, policy)
    }

    fn set_in(
        ground: Ground,
        agents_place: Option<Place>,
        place: Place,
        policy: &str,
    ) -> Result<Self> {
        let agent_command = match ground {
            Ground::Machine | Ground::PodFromMachine => Place::Machine.command(kernelseal()),
            Ground::InsidePod => place.command(kernelseal()),
            Ground::BelowPod => agents_place
                .as_ref()
                .unwrap_or(&place)
                .command(kernelseal()),
        }?;
        let mut agent = Agent::start_as(agent_command, &config(policy))?;
        wait_until_ready(&mut agent)?;
        let mut command = place.command(probe::path("probe-static")?)?;
        command.env_clear().env("PATH", "/usr/bin:/bin");
        let options = [
            "--env",
            FILE,
            "--file",
            FILE,
            "--memfd",
            FILE,
            "--threads",
            "3",
            "--fork",
            "--clone-vm",
        ];
        let mut target = spawn(command.args(options))?;
        let report = target.json(SOON)?;
        ensure!(report["env"][FILE] == SECRET, "no secret in {report}");
        ensure!(
            report["files"][FILE]["content"] == SECRET,
            "no secret file in {report}"
        );
        target.json(SOON)?;
        let sealed = agent.wait_for(|event| event["type"] == "SEALED", SOON)?;
        let known = sealed["pid"].as_u64().context("SEALED tells no pid")?;
        thread::sleep(Duration::from_millis(100));
        Ok(Self {
            target,
            agent,
            place,
            _agents_place: agents_place,
            attack: probe::path("attack")?,
            number: report["pid"].as_u64().context("the target tells no pid")?,
            known: BTreeSet::from([known]),
            events: Vec::new(),
        })
    }

    /// The names of the ways.
    pub fn vectors(&self) -> Result<Vec<String>> {
        let text = run(self.place.command(&self.attack)?.arg("list"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Tries one way or all, and gives what came of each.
    pub fn attack(&mut self, vector: &str) -> Result<Vec<Value>> {
        let mut command = self.place.command(&self.attack)?;
        command.args(self.arguments(vector));
        lines(&mut command)
    }

    fn arguments(&self, vector: &str) -> [String; 4] {
        let file = format!("/run/kernelseal/secrets/{}/{FILE}", self.number);
        [vector.into(), self.number.to_string(), backwards(), file]
    }

    /// Tries all ways again and again, until the pod ends.
    pub fn keep_attacking(&self) -> Result<Running> {
        let mut command = self.place.command("sh")?;
        command.args(["-c", r#"while :; do "$0" "$@" || exit 1; done"#]);
        spawn(command.arg(&self.attack).args(self.arguments("all")))
    }

    /// A second target, and descriptors of all that procfs has of it from before its exec: they are used again and again, until
    /// the pod ends. It has its secret by now.
    pub fn use_what_is_kept(&self) -> Result<Running> {
        let mut command = self.place.command(&self.attack)?;
        command
            .args(["kept", "0", &backwards()])
            .arg(probe::path("probe-static")?)
            .args(["--env", FILE, "--file", FILE, "--sleep", "600"]);
        let mut kept = spawn(&mut command)?;
        ensure!(kept.line(SOON)? == "kept");
        Ok(kept)
    }

    /// Runs a shell's script in the target's pod.
    pub fn run_beside(&self, script: &str) -> Result<Running> {
        spawn(self.place.command("sh")?.args(["-c", script]))
    }

    /// Asks the pod's process 1 to end.
    pub fn end_pod(&self) -> Result<()> {
        let Place::Pod { number, .. } = &self.place else {
            bail!("a machine has no pod");
        };
        Ok(kill(Pid::from_raw(number.cast_signed()), Signal::SIGTERM)?)
    }

    /// The agent has ended with its pod, which is no fault of its own.
    pub fn agent_ends_with_its_pod(self) -> Result<()> {
        let status = self.agent.stop()?;
        ensure!(!status.success(), "it survived its pod: {status}");
        Ok(())
    }

    /// All events until now.
    pub fn events(&mut self) -> Result<&[Value]> {
        if self.events.is_empty() {
            self.events = self.agent.events(SETTLE)?.to_vec();
        }
        Ok(&self.events)
    }

    /// Whether an event of that kind told of the access, done by the attack to our target.
    pub fn was_told(&mut self, kind: &str, access: &str) -> Result<bool> {
        let known = self.known.clone();
        // Of these the kernel does not tell whose they are.
        let has_no_target = ["secret_file", "perf_event"].contains(&access);
        Ok(self.events()?.iter().any(|event| {
            event["type"] == kind
                && event["access"] == access
                && event["process"] == "attack"
                && event["pid"].as_u64().is_some_and(|pid| pid > 0)
                && (has_no_target
                    || event["target_pid"]
                        .as_u64()
                        .is_some_and(|pid| known.contains(&pid)))
        }))
    }

    /// What people and their tools do with processes goes on; gives the complaints.
    pub fn tools_work(&mut self) -> Result<Vec<String>> {
        let pid = self.number;
        let expectations = [
            (format!("ps | grep -w {pid}"), "probe-static"),
            (format!("readlink /proc/{pid}/exe"), "probe-static"),
            (format!("readlink /proc/{pid}/cwd"), "/"),
            (format!("cat /proc/{pid}/stat"), "probe-static"),
            (format!("cat /proc/{pid}/status"), "probe-static"),
            (format!("tr '\\0' ' ' </proc/{pid}/cmdline"), "--threads 3"),
            (format!("cat /proc/{pid}/cgroup"), ":/"),
            (format!("readlink /proc/{pid}/ns/mnt"), "mnt:["),
            (
                format!("nsenter -t {pid} -m -p ps -o pid,comm"),
                "probe-static",
            ),
            (format!("ls /proc/{pid}/task | wc -l"), "4"),
            (
                format!("cat /proc/{pid}/limits /proc/{pid}/io /proc/{pid}/statm"),
                "Max open files",
            ),
            (format!("kill -0 {pid} && echo alive"), "alive"),
        ];
        let mut wrong = Vec::new();
        for (script, wanted) in expectations {
            let result = run(self.place.command("sh")?.args(["-c", &script]));
            match result {
                Ok(text) if text.contains(wanted) => {}
                Ok(text) => wrong.push(format!("{script}: printed {text}")),
                Err(error) => wrong.push(format!("{script}: {error:#}")),
            }
        }
        ensure!(
            self.target.pid() > 0 && !self.known.is_empty(),
            "the target is gone"
        );
        Ok(wrong)
    }
}

/// The agent in a place, and the number it has there.
pub fn agent_in(place: &Place, policy: &str) -> Result<(Agent, u32)> {
    let mut agent = Agent::start_as(place.command(kernelseal())?, &config(policy))?;
    wait_until_ready(&mut agent)?;
    let Place::Pod { .. } = place else {
        let number = agent.pid();
        return Ok((agent, number));
    };
    let number = number_inside(process_one(agent.pid())?)?;
    Ok((agent, number))
}

/// The agent's program.
pub fn kernelseal() -> PathBuf {
    std::env::var_os("KERNELSEAL_BIN").map_or_else(|| "/usr/bin/kernelseal".into(), PathBuf::from)
}

/// A configuration that seals the static probe and `forker`.
pub fn config(policy: &str) -> String {
    let binding = |program: &str| {
        format!(
            "  - name: {program}\n    selector: {{binary: {program}}}\n    secretRefs:\n      - name: {FILE}\n        source: {{value: {SECRET}}}\n"
        )
    };
    format!(
        "version: v1\npolicy: {{{policy}}}\nmonitoring: {{metricsPort: {PORT}}}\nsecrets:\n{}{}",
        binding("probe-static"),
        binding("forker")
    )
}

/// Waits for /ready to say so.
pub fn wait_until_ready(agent: &mut Agent) -> Result<()> {
    let begin = Instant::now();
    while !is_ready().unwrap_or(false) {
        agent
            .events(Duration::from_millis(20))
            .context("the agent is not ready")?;
        ensure!(
            begin.elapsed() < SOON,
            "the agent is not ready after {SOON:?}"
        );
    }
    Ok(())
}

fn is_ready() -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains(" 200 "))
}
