//! What a binding is once it has been checked: which program, which secrets, from where.
//!
//! As in [`super::model`], the comments are also the descriptions in the JSON Schema.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::error::Position;

/// One program, or kind of program, and the secrets it gets.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// A name for this binding, once per file. It appears in events and logs.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which programs this binding is for.
    pub selector: Selector,
    /// How the secrets reach the program.
    #[schemars(default)]
    pub delivery: Delivery,
    /// Owner and mode of the secret files. Without it they are the program's user's, who alone may read them.
    #[schemars(default)]
    pub file: FileAccess,
    /// Variables that bring code into a program (`LD_PRELOAD`, `JAVA_TOOL_OPTIONS`, …), and that it may be started with
    /// nevertheless.
    #[schemars(default)]
    pub allow_variables: Vec<String>,
    /// What running programs are told when a value changed. Their files are replaced in any case.
    #[schemars(default)]
    pub on_rotate: OnRotate,
    /// The secrets. At least one.
    #[schemars(length(min = 1))]
    pub secret_refs: Vec<SecretRef>,
    /// Where the binding stands in the file.
    #[schemars(skip)]
    pub at: Position,
}

/// Which programs a binding is for: every field given must match.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// The executed file: its basename (at most 255 bytes), or an absolute path.
    #[schemars(length(min = 1))]
    pub binary: String,
    /// SHA-256 digest of the executed file, 64 hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub sha256: Option<String>,
    /// Where the program must come from. Without it: `any` where `sha256` and an absolute path are given; else `image` in a
    /// container, and `system` outside of one.
    pub provenance: Option<Provenance>,
    /// Name of the container.
    #[schemars(length(min = 1))]
    pub container: Option<String>,
    /// Kubernetes namespace of the pod.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Labels the pod must carry, each with this value.
    #[schemars(default)]
    pub labels: BTreeMap<String, String>,
    /// A control group: the program must be in it or below. Absolute, and not `/`.
    #[schemars(regex(pattern = "^/[^/]"))]
    pub cgroup_path: Option<PathBuf>,
    /// User id the program runs as.
    pub uid: Option<u32>,
    /// Where the selector stands in the file.
    #[schemars(skip)]
    pub at: Position,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// From anywhere.
    Any,
    /// It, and each folder above it, is root's, and nobody else may write them.
    System,
    /// From the image of its container, unchanged.
    Image,
    /// The same, and so do the libraries and programs that it runs.
    ImageAndLibraries,
}

impl Provenance {
    /// By what a configuration has for them.
    pub(super) const NAMES: [(&str, Self); 4] = [
        ("any", Self::Any),
        ("system", Self::System),
        ("image", Self::Image),
        ("image+libraries", Self::ImageAndLibraries),
    ];
}

impl Selector {
    /// Where the program must come from, given whether it lives in a container.
    #[must_use]
    pub fn provenance_in(&self, is_in_container: bool) -> Provenance {
        let is_told_by_content = self.sha256.is_some() && self.binary.starts_with('/');
        self.provenance.unwrap_or(if is_told_by_content {
            Provenance::Any
        } else if is_in_container {
            Provenance::Image
        } else {
            Provenance::System
        })
    }

    /// The last component of `binary`: the name the kernel side filters by.
    #[must_use]
    pub fn basename(&self) -> &str {
        self.binary.rsplit('/').next().unwrap_or(&self.binary)
    }
}

/// How secrets reach a program. At least one of the two is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// As environment variables.
    pub env: bool,
    /// As files below `/run/kernelseal/secrets/<pid>/`.
    pub file: bool,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            env: true,
            file: true,
        }
    }
}

/// Owner and mode of secret files, for a program that gives up its user after its exec. Nobody outside of its sealed tree reads them,
/// whatever is given here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileAccess {
    /// Who may read them, in octal: 0400, 0440 or 0444.
    #[schemars(default)]
    pub mode: FileMode,
    /// User id of their owner. Without it, the program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group id of their group. Without it, the program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// Who may read a secret file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileMode {
    /// Its owner.
    #[default]
    Owner,
    /// Its group, too.
    Group,
    /// Everybody.
    All,
}

impl FileMode {
    /// By what a configuration has for them.
    pub(super) const NAMES: [(&str, Self); 3] = [
        ("0400", Self::Owner),
        ("0440", Self::Group),
        ("0444", Self::All),
    ];

    /// As the kernel has it.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::Owner => 0o400,
            Self::Group => 0o440,
            Self::All => 0o444,
        }
    }
}

/// What a running program is told when one of its secrets changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRotate {
    /// Nothing: it reads the file again by itself, or keeps what it has.
    #[default]
    None,
    /// A signal, to the process that was given the secrets.
    Signal(RotateSignal),
    /// To end (SIGTERM, and SIGKILL where it does not): whoever started it starts it again.
    Restart,
}

/// Signals by which programs are used to be told to read their configuration again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotateSignal {
    /// SIGHUP
    Hup,
    /// SIGINT
    Int,
    /// SIGQUIT
    Quit,
    /// SIGUSR1
    Usr1,
    /// SIGUSR2
    Usr2,
    /// SIGTERM
    Term,
    /// SIGWINCH
    Winch,
}

impl RotateSignal {
    /// By the names that a configuration has for them.
    pub(super) const NAMES: [(&str, Self); 7] = [
        ("HUP", Self::Hup),
        ("INT", Self::Int),
        ("QUIT", Self::Quit),
        ("USR1", Self::Usr1),
        ("USR2", Self::Usr2),
        ("TERM", Self::Term),
        ("WINCH", Self::Winch),
    ];
}

/// One secret of a binding.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The name the program knows it by: the environment variable, and the file.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
    /// Where the secret stands in the file.
    #[schemars(skip)]
    pub at: Position,
}

/// Where a secret's value comes from: exactly one of these.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub enum Source {
    /// A key of a Kubernetes Secret.
    SecretKeyRef(SecretKeyRef),
    /// A file kernelseal can read; its bytes are taken as they are.
    FileRef(FileRef),
    /// A variable in kernelseal's own environment.
    EnvRef(#[schemars(length(min = 1))] String),
    /// The value itself, for tests only: whoever reads this file reads it. May be empty.
    Value(#[schemars(with = "String")] SecretString),
    /// A key of a secret in Vault, of which `vault` says where it is.
    VaultRef(VaultRef),
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SecretKeyRef(a), Self::SecretKeyRef(b)) => a == b,
            (Self::FileRef(a), Self::FileRef(b)) => a == b,
            (Self::EnvRef(a), Self::EnvRef(b)) => a == b,
            (Self::Value(a), Self::Value(b)) => a.expose_secret() == b.expose_secret(),
            (Self::VaultRef(a), Self::VaultRef(b)) => a == b,
            _ => false,
        }
    }
}

/// A key of a Kubernetes Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(regex(pattern = "^[-._a-zA-Z0-9]{1,253}$"))]
    pub key: String,
    /// Its namespace. Without it, the one kernelseal runs in.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Whether programs start without it where there is no such Secret, or no such key in it.
    #[schemars(default)]
    pub optional: bool,
}

/// A file as a source: `fileRef: /path`, or `fileRef: {path: /path, trim: true}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// An absolute path, as kernelseal sees it.
    pub path: PathBuf,
    /// Whether trailing newlines are left out. Otherwise the bytes are taken as they are.
    pub trim: bool,
}

/// A key of a secret in Vault.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultRef {
    /// Path of the secret as the API of KV version 2 has it, with `data/` after the mount: `secret/data/app`.
    #[schemars(length(min = 1))]
    pub path: String,
    /// Key in it.
    #[schemars(length(min = 1))]
    pub key: String,
}
