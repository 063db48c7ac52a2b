//! Events: what happened, one JSON object a line. Their names and fields are an interface.

use serde::Serialize;

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
    /// Events were lost.
    Dropped,
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
}

impl Who<'_> {
    /// The agent itself.
    pub(crate) fn agent() -> Self {
        Self {
            pid: std::process::id(),
            process: "kernelseal",
            container: None,
        }
    }
}

/// The container of a process, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    #[serde(rename = "container_id")]
    pub(crate) id: String,
    /// Its pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod_name: Option<String>,
    /// The namespace of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod_namespace: Option<String>,
    /// Its name in the pod.
    #[serde(rename = "container_name", skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// Digits of a container's id by which people name it, at least.
const SHORT_ID: usize = 12;

impl Container {
    /// Whether it is called so, by its name or its id; `None` if that cannot be said.
    pub(crate) fn is_called(&self, wanted: &str) -> Option<bool> {
        if wanted.len() >= SHORT_ID && self.id.starts_with(wanted) {
            return Some(true);
        }
        self.name.as_ref().map(|name| name == wanted)
    }
}

/// What belongs to an event of a kind.
#[derive(Debug, Serialize)]
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
        /// Why.
        reason: &'a str,
        /// What became of it.
        action: Action,
    },
    /// BLOCKED, AUDIT
    Access {
        /// What was reached for: a file's name in procfs, `ptrace`, `process_vm`, `secret file`.
        access: &'a str,
        /// Whose, in the agent's PID namespace; left out for a file.
        #[serde(skip_serializing_if = "Option::is_none")]
        target_pid: Option<u32>,
        /// Its name, or the secret file's.
        target: &'a str,
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
    /// DROPPED
    Dropped {
        /// How many, since the last such event.
        count: u64,
        /// Where: `kernel` (the ring was full) or `output` (nobody read our stdout).
        lost_in: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_called_by_name_or_id() {
        let mut container = Container {
            id: "4f53cda18c2baa0c".repeat(4),
            pod_name: None,
            pod_namespace: None,
            name: Some("app".into()),
        };
        assert_eq!(container.is_called("app"), Some(true));
        assert_eq!(container.is_called("ap"), Some(false));
        assert_eq!(container.is_called("4f53cda18c2baa0c"), Some(true));
        assert_eq!(container.is_called("4f53cda18c2"), Some(false));
        container.name = None;
        assert_eq!(container.is_called("app"), None);
        assert_eq!(container.is_called("4f53cda18c2b"), Some(true));
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let container = Container {
            id: "4f".into(),
            pod_name: Some("shop-1".into()),
            pod_namespace: None,
            name: Some("app".into()),
        };
        let event = Event {
            timestamp: "2026-01-02T03:04:05.000006Z".into(),
            node: "n",
            kind: Kind::Blocked,
            who: Who {
                pid: 7,
                process: "cat",
                container: Some(&container),
            },
            detail: Detail::Access {
                access: "environ",
                target_pid: Some(5),
                target: "psql",
                uid: 0,
                verdict: "blocked",
            },
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"timestamp":"2026-01-02T03:04:05.000006Z","node":"n","type":"BLOCKED","pid":7,"process":"cat","container":{"container_id":"4f","pod_name":"shop-1","container_name":"app"},"access":"environ","target_pid":5,"target":"psql","uid":0,"verdict":"blocked"}"#
        );
    }
}
