//! What `vault` says once it has been checked: where the server is, and who we are to it.
//!
//! As in [`super::model`], the comments are also the descriptions in the JSON Schema.

use std::{fmt, net::IpAddr, path::PathBuf};

use schemars::JsonSchema;

use super::error::Position;

/// Where a login's method is mounted when `mount` is not given.
pub const DEFAULT_MOUNT: &str = "kubernetes";
/// What proves a pod's service account, when `tokenFile` is not given.
pub const DEFAULT_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The Vault server that `vaultRef` reads from.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct Vault {
    /// Where it is, `https://host:port`. `http://` only for this machine (loopback).
    #[schemars(with = "String", regex(pattern = "^https?://[^/@?#]+/?$"))]
    pub address: Address,
    /// Who signs its certificate: a file with certificates in PEM. Without it, those that the system trusts.
    #[schemars(regex(pattern = "^/"))]
    pub ca_file: Option<PathBuf>,
    /// Vault's namespace of all paths here.
    #[schemars(length(min = 1))]
    pub namespace: Option<String>,
    /// How we prove who we are.
    pub auth: VaultAuth,
    /// Where the section stands in the file.
    #[schemars(skip)]
    pub at: Position,
}

impl Vault {
    /// Whether both say the same, wherever they stand in their files.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let moved = Self {
            at: self.at,
            ..other.clone()
        };
        *self == moved
    }
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken there.
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How we prove who we are to Vault: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub enum VaultAuth {
    /// A file with a token, as Vault's agent writes it. Read again when it changes.
    TokenFile(#[schemars(regex(pattern = "^/"))] PathBuf),
    /// A login with the service account of our pod.
    Kubernetes(VaultKubernetes),
}

/// A login with the service account of our pod.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultKubernetes {
    /// The role to log in as.
    #[schemars(length(min = 1))]
    pub role: String,
    /// Where the method is mounted, below `auth/`.
    #[schemars(default = "default_mount", length(min = 1))]
    pub mount: String,
    /// The service account's token.
    #[schemars(default = "default_account", regex(pattern = "^/"))]
    pub token_file: PathBuf,
}

fn default_mount() -> &'static str {
    DEFAULT_MOUNT
}

fn default_account() -> &'static str {
    DEFAULT_ACCOUNT
}

impl Address {
    /// Reads `https://host:port`, or says what is wrong with it without quoting it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("is not an address: it begins with `https://`"),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("has a user in it: use `auth` for the agent's credentials");
        }
        if rest.contains(['/', '?', '#']) {
            return Err("has more than a host and a port");
        }
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port),
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let address = Self {
            is_tls,
            host: host.to_owned(),
            port: match port.strip_prefix(':') {
                Some(port) => port.parse().unwrap_or(0),
                None if !port.is_empty() => 0,
                None if is_tls => 443,
                None => 80,
            },
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !(host.bytes().all(is_name) || address.ip().is_some()) {
            return Err("has no host: a name or an IP address");
        }
        if address.port == 0 {
            return Err("has an invalid port: 1 to 65535 are valid");
        }
        if !is_tls && !address.is_loopback() {
            return Err("would send the token and the secrets to another machine in the clear");
        }
        Ok(address)
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Host and port, as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.ip() {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}
