//! An event, read back: as much of it as is shown, and whatever else may be in it.

use serde::Deserialize;

/// One line of an agent's output.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) timestamp: String,
    pub(super) node: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) pid: u32,
    pub(super) process: String,
    pub(super) container: Container,
    // SEALED
    pub(super) bindings: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) files: Vec<String>,
    // REFUSED, BLOCKED, AUDIT
    pub(super) reason: String,
    pub(super) access: String,
    pub(super) target: String,
    pub(super) target_pid: Option<u32>,
    // CONNECT, ACCEPT, CLOSE
    pub(super) protocol: String,
    pub(super) src_ip: String,
    pub(super) src_port: u16,
    pub(super) dst_ip: String,
    pub(super) dst_port: u16,
    pub(super) path: String,
    pub(super) inode: u64,
    pub(super) direction: String,
    pub(super) dst_name: Option<String>,
    pub(super) outcome: String,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    // SYSCALL
    pub(super) syscall: String,
    pub(super) error: Option<String>,
    // DROPPED
    pub(super) count: u64,
    pub(super) lost_in: String,
}

/// Whose process it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    #[serde(rename = "container_id")]
    id: String,
    #[serde(rename = "container_name")]
    name: Option<String>,
    pub(super) pod_name: Option<String>,
}

impl Event {
    /// What a line says; `None` if it is no event. (Logs of a container have both its streams.)
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let told: Self = serde_json::from_slice(line).ok()?;
        let is_event = !told.kind.is_empty() && !told.timestamp.is_empty();
        is_event.then_some(told)
    }

    /// Hours, minutes and seconds of it.
    pub(super) fn time(&self) -> String {
        self.timestamp.get(11..19).unwrap_or_default().to_owned()
    }
}

impl Container {
    /// How people call it; nothing outside of containers.
    pub(super) fn name(&self) -> String {
        const SHORT_ID: usize = 12;
        let name = self.name.as_deref();
        let name = name.or_else(|| self.id.get(..SHORT_ID));
        match (&self.pod_name, name) {
            (Some(pod), Some(name)) => format!("{pod}/{name}"),
            (_, name) => name.unwrap_or_default().to_owned(),
        }
    }
}
