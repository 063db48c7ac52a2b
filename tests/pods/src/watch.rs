//! Waits for what a pod does: its probes, its containers' ends, and what they print.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::log;
use crate::pod::Pod;
use crate::wire::EXITED;

/// How long a pod's container may take to say something, in emulation.
const SOON: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

impl Pod<'_> {
    /// Waits until a sidecar's startup probe succeeds, as often as the manifest says.
    pub fn wait_started(&self, name: &str) -> Result<()> {
        let spec = self.spec(name)?;
        let probe = &spec["startupProbe"];
        ensure!(
            spec["restartPolicy"] == "Always" && probe.is_object(),
            "{name} is no sidecar with a probe"
        );
        let path = probe["httpGet"]["path"]
            .as_str()
            .context("a probe that is no httpGet")?;
        let port = match &probe["httpGet"]["port"] {
            Value::String(wanted) => {
                let ports = spec["ports"].as_array().context("no ports")?;
                let port = ports.iter().find(|port| port["name"] == wanted.as_str());
                port.context("no such port")?["containerPort"].as_u64()
            }
            number => number.as_u64(),
        };
        let port = port.context("no port")?;
        let failures = probe["failureThreshold"].as_u64().unwrap_or(3);
        let period = probe["periodSeconds"].as_u64().unwrap_or(10);
        let begin = Instant::now();
        let limit = Duration::from_secs(failures * period);
        loop {
            let answer = self.get(port, path);
            if answer.as_ref().is_ok_and(|status| *status == 200) {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < limit && self.is_running(name)?,
                "the probe of {name} did not succeed: {answer:?}; {:?}; it logged:\n{}",
                self.node.cri.status(self.id(name)?)?,
                self.raw_log(name)?
            );
            // Oftener than a kubelet would: a pod that is up earlier than its probe tells is worth a test.
            thread::sleep(POLL);
        }
    }

    /// The status that a GET from the node is answered with.
    pub fn get(&self, port: u64, path: &str) -> Result<u16> {
        let mut stream = TcpStream::connect((self.address.as_str(), u16::try_from(port)?))?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split_whitespace().nth(1).context("no status")?;
        Ok(status.parse()?)
    }

    /// Waits until a container has ended; gives its status.
    pub fn wait_ended(&self, name: &str) -> Result<i32> {
        let begin = Instant::now();
        loop {
            let status = self.node.cri.status(self.id(name)?)?;
            if status.state == EXITED {
                return Ok(status.exit_code);
            }
            ensure!(begin.elapsed() < SOON, "{name} does not end");
            thread::sleep(POLL);
        }
    }

    /// What a container printed, with its standard error, since it was last started.
    pub fn raw_log(&self, name: &str) -> Result<String> {
        self.log_of(name, &["stdout", "stderr"])
    }

    /// The lines of JSON that a container printed since it was last started.
    pub fn printed(&self, name: &str) -> Result<Vec<Value>> {
        let text = self.log_of(name, &["stdout"])?;
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn log_of(&self, name: &str, streams: &[&str]) -> Result<String> {
        let (_, attempt) = self
            .containers
            .get(name)
            .with_context(|| format!("{name} was not started"))?;
        let file = self
            .node
            .path(&self.config.log_directory)
            .join(format!("{name}/{attempt}.log"));
        Ok(log::text(&file, streams))
    }

    /// The first line of JSON that a container prints for which `wanted` holds.
    pub fn wait_for(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begin = Instant::now();
        loop {
            if let Some(line) = self.printed(name)?.into_iter().find(|line| wanted(line)) {
                return Ok(line);
            }
            ensure!(
                begin.elapsed() < SOON,
                "{name} did not say so; {:?}; it logged:\n{}",
                self.node.cri.status(self.id(name)?)?,
                self.raw_log(name)?
            );
            thread::sleep(POLL);
        }
    }
}
