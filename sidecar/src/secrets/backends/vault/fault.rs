//! What can go wrong between us and Vault, in words that quote no answer: one may hold a secret or a token.

use crate::config::{Vault, VaultAuth};

/// Why a secret is not known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 403 for the secret, with a token that is as good as we can get.
    Forbidden,
    /// A login's refusal.
    Login(u16),
    /// 503.
    Sealed,
    /// It says that somebody else is to be asked.
    Elsewhere(u16),
    /// Another refusal.
    Status(u16),
    /// No answer, and why.
    Unreachable(String),
    /// An answer that is none.
    Malformed,
    /// An answer of more bytes than we take.
    TooLong(usize),
    /// An answer, but not that of the key-value engine's version 2.
    NotVersion2,
    /// What we prove ourselves by cannot be read.
    Credentials(String),
}

impl Fault {
    /// Of an answer that is not the one hoped for.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            403 => Self::Forbidden,
            503 => Self::Sealed,
            300..400 => Self::Elsewhere(status),
            status => Self::Status(status),
        }
    }

    /// Whether asking again is no use until somebody has done something.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Forbidden
                | Self::Login(_)
                | Self::Sealed
                | Self::NotVersion2
                | Self::Credentials(_)
        )
    }

    /// What is wrong, and what to do about it.
    pub(crate) fn tell(&self, path: &str, config: &Vault) -> String {
        let address = &config.address;
        match self {
            Self::Forbidden => format!(
                "{who} may not read it (403){namespace}. A policy that says {policy} allows it",
                who = who(&config.auth),
                namespace = config
                    .namespace
                    .as_ref()
                    .map_or_else(String::new, |name| format!(" in Vault's namespace {name}")),
                policy = policy(path),
            ),
            Self::Login(code) => login(*code, config),
            Self::Sealed => format!(
                "Vault at {address} is sealed, or none is there (503). See `vault status`, and unseal it (`vault operator unseal`)"
            ),
            Self::Elsewhere(code) => format!(
                "{address} redirects ({code}), and the agent does not follow with its token. Set `vault.address` to the address that it redirects to"
            ),
            Self::Status(code) => format!("Vault at {address} answered {code}; its log says why"),
            Self::Unreachable(why) => format!("Vault at {address} does not answer: {why}"),
            Self::Malformed => format!(
                "the server at {address} is not Vault, or its answer was cut short"
            ),
            Self::TooLong(most) => format!(
                "the answer of {address} is longer than a secret may be ({most} bytes)"
            ),
            Self::NotVersion2 => "what is there is not a secret of the key-value engine, version 2. Its paths have `data/` after the mount: secret/data/app; another engine is not supported".into(),
            Self::Credentials(why) => format!("the agent's credentials for Vault: {why}"),
        }
    }
}

fn who(auth: &VaultAuth) -> String {
    match auth {
        VaultAuth::TokenFile(path) => format!("the token in {}", path.display()),
        VaultAuth::Kubernetes(login) => format!("the role {}", login.role),
    }
}

/// The policy that is missing, as HCL. (A path has no `"` and no `\`.)
fn policy(path: &str) -> String {
    format!("path \"{path}\" {{ capabilities = [\"read\"] }}")
}

fn login(code: u16, config: &Vault) -> String {
    match &config.auth {
        VaultAuth::Kubernetes(login) => format!(
            "Vault refused the login as the role {role} at auth/{mount} ({code}). See that the method is mounted there, that it has the role, and that the role names the agent's service account, its namespace and its token's audience (`vault read auth/{mount}/role/{role}`); the token is {file}",
            role = login.role,
            mount = login.mount,
            file = login.token_file.display(),
        ),
        VaultAuth::TokenFile(path) => {
            format!("Vault refused the token in {} ({code})", path.display())
        }
    }
}
