//! What `monitoring.syscalls` says once it has been checked: which system calls are told of, and whose.
//!
//! As in [`super::model`], the comments are also the descriptions in the JSON Schema.

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Position,
    calls::{self, Call, Category},
};

/// What programs ask of the kernel: every watched system call is an event. Only what is asked for is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default, deny_unknown_fields)]
pub struct Syscalls {
    /// Whether system calls are told of.
    pub enabled: bool,
    /// All system calls of these categories. `enabled` needs these or `names`.
    #[schemars(length(min = 1))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Category>,
    /// System calls by name, such as `openat`; with those of `categories`.
    #[schemars(length(min = 1))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Only those of these containers, each a name or an id of at least 12 digits. Without it, of all programs.
    #[schemars(length(min = 1))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// Only those of these users, as the node numbers them. Without it, of all.
    #[schemars(length(min = 1, max = 256))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// Only those that fail.
    pub failed: bool,
    /// Events that a container may have in a second, whoever asks for them; more are dropped and counted. Without it,
    /// any number.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// Whether objects of the cluster ask as well: `SyscallMonitor` and `KubeWard`. For an agent that answers for a node.
    pub objects: bool,
    /// Where `objects` stands in the file.
    #[serde(skip)]
    #[schemars(skip)]
    pub objects_at: Option<Position>,
}

impl Syscalls {
    /// What is watched.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &'static Call> {
        calls::all().filter(|call| {
            self.categories.contains(&call.category)
                || self.names.iter().any(|name| name == call.name)
        })
    }
}
