//! Events: what happened, one JSON object a line. Their names and fields are an interface.

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

use super::labels::{Outcome, Protocol};
use crate::process::{Container, Origin, Parent};

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Kind {
    /// A program was started.
    Exec,
    /// It has its secrets and is guarded.
    Sealed,
    /// It got none.
    Refused,
    /// An access was refused.
    Blocked,
    /// An access was allowed and logged.
    Audit,
    /// A secret of a running program has another value.
    Rotated,
    /// A sealed process ended.
    Exited,
    /// A program connected to somebody, or tried to.
    Connect,
    /// A program accepted a connection.
    Accept,
    /// A connection ended.
    Close,
    /// A system call returned, or does not.
    Syscall,
    /// Events were lost.
    Dropped,
    /// Something became of the agent itself, and so of the protection.
    Agent,
}

/// What became of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lifecycle {
    /// It watches.
    Started,
    /// It was told to end, and watches no more.
    Stopping,
    /// Another configuration is in force.
    ConfigReloaded,
    /// The configuration file is wrong, and the configuration before stays in force.
    ConfigRejected,
    /// `policy.mode` is another: guards may be off, or on again.
    ModeChanged,
    /// The guard does not work any more.
    GuardLost,
    /// It works again.
    GuardRestored,
}

/// Arguments of a system call, by name.
#[derive(Debug)]
pub(crate) struct Arguments(pub(crate) Vec<(&'static str, Argument)>);

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, argument)| (name, argument)))
    }
}

/// One of them.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Argument {
    /// With a sign.
    Number(i64),
    /// Without.
    Size(u64),
    /// Whatever is told in words.
    Text(String),
    /// A structure's fields.
    Fields(Arguments),
}

/// From where to where.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connection {
    /// By what.
    pub(crate) protocol: Protocol,
    /// Whom it connects.
    #[serde(flatten)]
    pub(crate) between: Between,
    /// Inode number of the network namespace.
    pub(crate) netns: u32,
    /// Who began it: the process (`outbound`) or somebody else (`inbound`).
    pub(crate) direction: &'static str,
}

/// Whom a connection connects.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Between {
    /// Two of a network, or one with itself.
    Hosts {
        /// The end that began it.
        src_ip: IpAddr,
        /// Its port.
        src_port: u16,
        /// The end that it is made to.
        dst_ip: IpAddr,
        /// Its port.
        dst_port: u16,
        /// What `dst_ip` was asked for as, where an answer of a name server was seen.
        #[serde(skip_serializing_if = "Option::is_none")]
        dst_name: Option<String>,
    },
    /// Two processes of this machine.
    Processes {
        /// The name of the socket that it is made to: a path, or `@name`.
        path: String,
        /// Who is at the other end, as we see it: who listens (as it was when it began to), or who connected.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_pid: Option<u32>,
        /// The number of the process's own socket, as in `socket:[number]` of `/proc/<pid>/fd`.
        inode: u64,
    },
}

/// What became of a refused program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// It did not start.
    Killed,
    /// It started without its secrets (`onFailure: allow`).
    Started,
    /// It was gone already.
    Gone,
    /// It runs on; what it wanted to do failed.
    #[serde(rename = "goes_on")]
    GoesOn,
    /// It started under the seal that its process had already, with what that gave it and nothing more.
    #[serde(rename = "kept_seal")]
    KeptSeal,
}

/// An event. `timestamp` and `node` are added when it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    /// RFC 3339, from the kernel's clock.
    pub(crate) timestamp: String,
    /// This node's name.
    pub(crate) node: &'a str,
    /// What happened.
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    /// Who did it.
    #[serde(flatten)]
    pub(crate) who: Who<'a>,
    /// The rest, by kind.
    #[serde(flatten)]
    pub(crate) detail: Detail<'a>,
}

/// A process, as an event tells of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Who<'a> {
    /// Its number in the agent's PID namespace; 0 for a process outside of it.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) process: &'a str,
    /// Whose it is, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<&'a Container>,
    /// The uid of its pod, where that is known: for Kubernetes alone.
    #[serde(skip)]
    pub(crate) pod_uid: Option<&'a str>,
}

impl Who<'_> {
    /// The agent itself.
    pub(crate) fn agent() -> Self {
        Self {
            pid: std::process::id(),
            process: "kernelseal",
            container: None,
            pod_uid: None,
        }
    }
}

/// A process's [`Origin`], as an event tells it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct OriginOf<'a> {
    /// See [`Origin`].
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    /// See [`Origin`].
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a Parent>,
}

impl<'a> From<&'a Origin> for OriginOf<'a> {
    fn from(origin: &'a Origin) -> Self {
        Self {
            executable: origin.executable.as_deref(),
            parent: origin.parent.as_ref(),
        }
    }
}

/// What belongs to an event of a kind.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(Clone))]
#[serde(untagged)]
pub(crate) enum Detail<'a> {
    /// EXEC
    Exec {
        /// Effective user.
        uid: u32,
    },
    /// SEALED
    Sealed {
        /// Effective user.
        uid: u32,
        /// Names of the bindings.
        bindings: &'a [&'a str],
        /// Names of the secrets in the environment.
        env: &'a [&'a str],
        /// Names of the secrets in files.
        files: &'a [&'a str],
        /// Names the program had already, and whose value is now ours.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        overrode: &'a [String],
        /// What was left out, and why.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<&'a str>,
        /// From its exec to its release, in microseconds.
        held_us: u64,
    },
    /// REFUSED
    Refused {
        /// Names of the bindings that it was held for, joined by commas; left out where none is known.
        #[serde(skip_serializing_if = "str::is_empty")]
        binding: &'a str,
        /// Its file, and who started it.
        #[serde(flatten)]
        origin: OriginOf<'a>,
        /// Why.
        reason: &'a str,
        /// What became of it.
        action: Action,
    },
    /// BLOCKED, AUDIT
    Access {
        /// What was reached for: a file's name in procfs, `ptrace`, `process_vm`, `secret_file`.
        access: &'a str,
        /// Whose, in the agent's PID namespace; left out for a file.
        #[serde(skip_serializing_if = "Option::is_none")]
        target_pid: Option<u32>,
        /// Its name, or the secret file's.
        target: &'a str,
        /// Names of the bindings whose secrets it has, joined by commas; left out where they are not known.
        #[serde(skip_serializing_if = "str::is_empty")]
        binding: &'a str,
        /// Of who reached.
        #[serde(flatten)]
        origin: OriginOf<'a>,
        /// Real user of who reached.
        uid: u32,
        /// `blocked`, `audit` (allowed, but would be blocked), `allowed`
        verdict: &'static str,
    },
    /// ROTATED
    Rotated {
        /// Names of the secrets.
        secrets: &'a [&'a str],
        /// Of these, the names of those whose files were replaced.
        files: &'a [&'a str],
        /// What the program was told: `none`, `signal`, `restart`.
        action: &'static str,
    },
    /// EXITED
    Exited {
        /// Exit code, if it ended by itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
        /// Signal, if one ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<u32>,
    },
    /// CONNECT
    Connect {
        /// From where to where.
        #[serde(flatten)]
        connection: Connection,
        /// What became of it.
        outcome: Outcome,
    },
    /// ACCEPT
    Accept {
        /// From where to where.
        #[serde(flatten)]
        connection: Connection,
    },
    /// CLOSE
    Close {
        /// From where to where.
        #[serde(flatten)]
        connection: Connection,
        /// Of payload, by the process; absent where nobody counts it.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_sent: Option<u64>,
        /// Of payload, by the other end.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_received: Option<u64>,
        /// Since CONNECT or ACCEPT.
        duration_ns: u64,
        /// TCP segments that were sent again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retransmits: Option<u32>,
    },
    /// SYSCALL
    Syscall {
        /// Its name.
        syscall: &'a str,
        /// What it is about.
        category: &'a str,
        /// `i386` of a call of 32 bits: of a program of that width, or by `int 0x80`; else absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        abi: Option<&'static str>,
        /// Its arguments.
        args: &'a Arguments,
        /// What it returned; absent of one that does not.
        #[serde(skip_serializing_if = "Option::is_none")]
        ret: Option<i64>,
        /// The name of the error, if it returned one.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        /// How long it took.
        duration_ns: u64,
        /// Its process's user, as the node numbers it.
        uid: u32,
    },
    /// AGENT
    Agent {
        /// What became of it.
        action: Lifecycle,
        /// The mode in force.
        mode: &'a str,
        /// Why, where there is something to say.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    /// DROPPED
    Dropped {
        /// How many, since the last such event.
        count: u64,
        /// Where: `kernel` (the ring was full), `network`, `syscalls` (the monitors'), `rate` (a container had more than it may), `output` (nobody read our stdout), `stdout` or `audit_log` (it could not be written).
        lost_in: &'static str,
    },
}

impl Connection {
    /// To where, as metrics tell it; `None` for one that somebody else began.
    pub(crate) fn destination(&self) -> Option<String> {
        (self.direction == "outbound").then(|| match &self.between {
            Between::Hosts {
                dst_name: Some(name),
                dst_port: port,
                ..
            } => format!("{name}:{port}"),
            Between::Hosts {
                dst_ip, dst_port, ..
            } => SocketAddr::new(*dst_ip, *dst_port).to_string(),
            Between::Processes { path, .. } => path.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
