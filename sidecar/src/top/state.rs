//! What is so, by all events so far: which programs have secrets, which connections there are, who was refused what.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::event::Event;

/// Of each kind of thing so many are kept, at most: input may be anything.
const MOST: usize = 65_536;
/// Refusals that are kept.
const REFUSALS: usize = 100;

/// A process of an agent's: agents of several pods may be read together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    node: String,
    pod: String,
    pid: u32,
}

impl Key {
    fn of(told: &Event) -> Self {
        Self {
            node: told.node.clone(),
            pod: told.container.pod_name.clone().unwrap_or_default(),
            pid: told.pid,
        }
    }
}

/// A program that was given secrets, and runs.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) since: String,
    pub(super) pid: u32,
    pub(super) process: String,
    pub(super) container: String,
    pub(super) bindings: String,
    pub(super) secrets: usize,
}

/// What a connection is known by; not its process, which may have handed it on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ends {
    key: Key,
    protocol: String,
    source: (String, u16),
    destination: (String, u16),
    inode: u64,
    direction: String,
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) since: String,
    pub(super) pid: u32,
    pub(super) process: String,
    pub(super) container: String,
    pub(super) protocol: String,
    pub(super) is_outbound: bool,
    /// The other end.
    pub(super) peer: String,
    order: u64,
}

/// What was exchanged with another end.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) connections: u64,
    pub(super) failed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Calls of one name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    pub(super) count: u64,
    pub(super) failed: u64,
}

/// Somebody got nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) time: String,
    pub(super) kind: String,
    pub(super) process: String,
    pub(super) pid: u32,
    pub(super) container: String,
    pub(super) what: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) events: u64,
    /// Lines that are no events.
    pub(super) strange: u64,
    pub(super) latest: String,
    sealed: BTreeMap<Key, Sealed>,
    flows: HashMap<Ends, Flow>,
    traffic: BTreeMap<String, Traffic>,
    calls: BTreeMap<(String, String), Calls>,
    refusals: VecDeque<Refusal>,
    /// By where.
    pub(super) lost: BTreeMap<String, u64>,
}

impl State {
    /// Takes an event.
    pub(super) fn take(&mut self, told: Event) {
        self.events += 1;
        if told.timestamp > self.latest {
            self.latest.clone_from(&told.timestamp);
        }
        match told.kind.as_str() {
            "SEALED" => self.sealed(&told),
            "EXITED" => {
                self.sealed.remove(&Key::of(&told));
            }
            "REFUSED" | "BLOCKED" | "AUDIT" => self.refused(told),
            "CONNECT" | "ACCEPT" => self.began(&told),
            "CLOSE" => self.ended(&told),
            "SYSCALL" => self.called(told),
            "DROPPED" => *self.lost.entry(told.lost_in).or_default() += told.count,
            _ => {}
        }
    }

    /// Those that run, by their numbers.
    pub(super) fn programs(&self) -> Vec<&Sealed> {
        self.sealed.values().collect()
    }

    /// The latest first.
    pub(super) fn flows(&self) -> Vec<&Flow> {
        let mut flows: Vec<&Flow> = self.flows.values().collect();
        flows.sort_unstable_by_key(|flow| std::cmp::Reverse(flow.order));
        flows
    }

    /// By how much was exchanged, the most first.
    pub(super) fn traffic(&self) -> Vec<(&str, &Traffic)> {
        let mut all: Vec<_> = self
            .traffic
            .iter()
            .map(|(to, t)| (to.as_str(), t))
            .collect();
        all.sort_by_key(|(_, t)| std::cmp::Reverse((t.sent + t.received, t.connections)));
        all
    }

    /// By their number, the most first: call, process, how often.
    pub(super) fn calls(&self) -> Vec<(&str, &str, Calls)> {
        let mut all: Vec<_> = self
            .calls
            .iter()
            .map(|((call, process), calls)| (call.as_str(), process.as_str(), *calls))
            .collect();
        all.sort_by_key(|(_, _, calls)| std::cmp::Reverse(calls.count));
        all
    }

    /// The latest first.
    pub(super) fn refusals(&self) -> Vec<&Refusal> {
        self.refusals.iter().rev().collect()
    }

    fn sealed(&mut self, told: &Event) {
        let mut names: Vec<&String> = told.env.iter().chain(&told.files).collect();
        names.sort_unstable();
        names.dedup();
        let sealed = Sealed {
            since: told.time(),
            pid: told.pid,
            process: told.process.clone(),
            container: told.container.name(),
            bindings: told.bindings.join(" "),
            secrets: names.len(),
        };
        if self.sealed.len() < MOST {
            self.sealed.insert(Key::of(told), sealed);
        }
    }

    fn refused(&mut self, told: Event) {
        let what = match (told.kind.as_str(), told.target_pid) {
            ("REFUSED", _) => told.reason.clone(),
            (_, Some(pid)) => format!("{} of {} ({pid})", told.access, told.target),
            (_, None) => format!("{} {}", told.access, told.target),
        };
        if self.refusals.len() >= REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(Refusal {
            time: told.time(),
            pid: told.pid,
            container: told.container.name(),
            kind: told.kind,
            process: told.process,
            what,
        });
    }

    fn began(&mut self, told: &Event) {
        let is_made = told.kind == "ACCEPT" || ["established", "sent"].contains(&&*told.outcome);
        if let Some(traffic) = self.traffic_with(told) {
            traffic.connections += 1;
            traffic.failed += u64::from(!is_made);
        }
        if !is_made || self.flows.len() >= MOST {
            return;
        }
        let flow = Flow {
            since: told.time(),
            pid: told.pid,
            process: told.process.clone(),
            container: told.container.name(),
            protocol: told.protocol.clone(),
            is_outbound: is_outbound(told),
            peer: peer(told),
            order: self.events,
        };
        self.flows.insert(ends(told), flow);
    }

    fn ended(&mut self, told: &Event) {
        self.flows.remove(&ends(told));
        if let Some(traffic) = self.traffic_with(told) {
            traffic.sent += told.bytes_sent;
            traffic.received += told.bytes_received;
        }
    }

    /// What is counted of the service that was spoken to: of incoming connections all others are one.
    fn traffic_with(&mut self, told: &Event) -> Option<&mut Traffic> {
        let with = if is_outbound(told) || !told.path.is_empty() {
            format!("{} {}", told.protocol, peer(told))
        } else {
            format!("{} to our port {}", told.protocol, told.dst_port)
        };
        if self.traffic.len() >= MOST && !self.traffic.contains_key(&with) {
            return None;
        }
        Some(self.traffic.entry(with).or_default())
    }

    fn called(&mut self, told: Event) {
        let key = (told.syscall, told.process);
        if self.calls.len() >= MOST && !self.calls.contains_key(&key) {
            return;
        }
        let calls = self.calls.entry(key).or_default();
        calls.count += 1;
        calls.failed += u64::from(told.error.is_some());
    }
}

fn is_outbound(told: &Event) -> bool {
    told.direction == "outbound"
}

fn ends(told: &Event) -> Ends {
    Ends {
        key: Key::of(told),
        protocol: told.protocol.clone(),
        source: (told.src_ip.clone(), told.src_port),
        destination: (told.dst_ip.clone(), told.dst_port),
        inode: told.inode,
        direction: told.direction.clone(),
    }
}

/// The other end: its name if one is known, and of an address with colons which is the port.
fn peer(told: &Event) -> String {
    if !told.path.is_empty() {
        return told.path.clone();
    }
    let (ip, port) = if is_outbound(told) {
        (&told.dst_ip, told.dst_port)
    } else {
        (&told.src_ip, told.src_port)
    };
    let name = told.dst_name.as_ref().filter(|_| is_outbound(told));
    match name {
        Some(name) => format!("{name}:{port}"),
        None if ip.contains(':') => format!("[{ip}]:{port}"),
        None => format!("{ip}:{port}"),
    }
}

#[cfg(test)]
mod tests;
