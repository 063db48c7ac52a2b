//! What can go wrong between us and the API, in words that quote no answer: one may hold a Secret.

use kube::{Error, client::AuthError, core::Status, runtime::watcher};

use super::{ObjectKind, SecretId};
use crate::util::error_chain;

/// Why a watch has nothing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 403, with the user that the API takes us for.
    Forbidden(Option<String>),
    /// 401.
    Unauthorized,
    /// 410: what we know is too old to go on from.
    Expired,
    /// Another refusal.
    Status(u16),
    /// No answer, and why.
    Unreachable(String),
    /// An answer that is none.
    Malformed,
    /// Our credentials cannot be read.
    Credentials(String),
}

impl Fault {
    pub(super) fn of(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(e)
            | watcher::Error::WatchStartFailed(e)
            | watcher::Error::WatchFailed(e) => Self::of_request(e),
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::NoResourceVersion => Self::Malformed,
        }
    }

    pub(super) fn of_request(error: &Error) -> Self {
        match error {
            Error::Api(status) => Self::of_status(status),
            Error::HyperError(e) => Self::Unreachable(error_chain(e)),
            Error::ReadEvents(e) => Self::Unreachable(error_chain(e)),
            Error::Service(e) => Self::Unreachable(error_chain(&**e)),
            Error::Auth(AuthError::ReadTokenFile(e, path)) => {
                Self::Credentials(format!("{}: {e}", path.display()))
            }
            Error::Auth(_) => Self::Credentials("not what a request can carry".into()),
            _ => Self::Malformed,
        }
    }

    fn of_status(status: &Status) -> Self {
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(user(&status.message)),
            410 => Self::Expired,
            code => Self::Status(code),
        }
    }

    /// Whether asking again is no use until somebody has done something.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_) | Self::Unauthorized | Self::Credentials(_)
        )
    }

    /// What is wrong with a Secret, and what to do about it.
    pub(crate) fn tell(&self, id: &SecretId) -> String {
        let SecretId { namespace, name } = id;
        self.tell_of(|user| format!(
            "{user} may not read it (403). In the namespace {namespace} a Role with the rule {rule}, bound to that account by a RoleBinding, allows it",
            rule = rule(name),
        ))
    }

    /// The same for a node's pods.
    pub(crate) fn tell_of_pods(&self) -> String {
        self.tell_of(|user| format!(
            "{user} may not read them (403). A ClusterRole with the rule {PODS_RULE}, bound to that account by a ClusterRoleBinding, allows it",
        ))
    }

    /// The same for objects that ask for system calls.
    pub(crate) fn tell_of_objects(&self, kind: ObjectKind) -> String {
        self.tell_of(|user| format!(
            "{user} may not read them (403). A ClusterRole with the rule {rule}, bound to that account by a ClusterRoleBinding, allows it",
            rule = kind.rule(),
        ))
    }

    /// The same for their status.
    pub(crate) fn tell_of_status(&self) -> String {
        self.tell_of(|user| format!(
            "{user} may not write it (403). A ClusterRole with the rule {STATUS_RULE}, bound to that account by a ClusterRoleBinding, allows it",
        ))
    }

    /// The same for events on pods.
    pub(crate) fn tell_of_pod_events(&self) -> String {
        self.tell_of(|user| format!(
            "{user} may not make events (403). A Role with the rule {EVENTS_RULE} (for an agent of a node a ClusterRole), bound to that account, allows it",
        ))
    }

    /// Whether the API does not know what it was asked for.
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::Status(404)
    }

    fn tell_of(&self, forbidden: impl FnOnce(&str) -> String) -> String {
        match self {
            Self::Forbidden(user) => forbidden(user.as_deref().unwrap_or("the agent's account")),
            Self::Unauthorized => "the API does not accept the agent's token (401). Mount the service account's (automountServiceAccountToken), or renew the one that KUBECONFIG names".into(),
            Self::Expired => "the watch expired (410). The agent lists anew".into(),
            Self::Status(code) => format!("the API answered {code}"),
            Self::Unreachable(why) => format!("the API does not answer: {why}"),
            Self::Malformed => "the server is not the API of a cluster, or its answer was cut short".into(),
            Self::Credentials(why) => format!("the agent's credentials: {why}"),
        }
    }
}

/// The rule that a node's pods take. (No role can be for one node's alone: it is all pods, or none.)
const PODS_RULE: &str = r#"{apiGroups: [""], resources: [pods], verbs: [list, watch]}"#;

/// The rule that events on pods take.
const EVENTS_RULE: &str = "{apiGroups: [events.k8s.io], resources: [events], verbs: [create]}";

/// The rule that a status takes.
const STATUS_RULE: &str =
    "{apiGroups: [kernelseal.io], resources: [syscallmonitors/status], verbs: [patch]}";

/// The rule of a Role, as YAML.
fn rule(name: &str) -> String {
    format!(
        "{{apiGroups: [\"\"], resources: [secrets], resourceNames: [{name}], verbs: [get, list, watch]}}"
    )
}

/// The user in a refusal's message: the one thing of it that we repeat.
fn user(message: &str) -> Option<String> {
    const LONGEST: usize = 320; // "system:serviceaccount:", a namespace and a name
    let (_, rest) = message.split_once("User \"")?;
    let (user, _) = rest.split_once('"')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@/".contains(c);
    (user.len() <= LONGEST && user.chars().all(is_plain)).then(|| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_only_the_user_is_repeated() {
        let message =
            r#"secrets "db" is forbidden: User "system:serviceaccount:shop:default" cannot list"#;
        assert_eq!(
            user(message).as_deref(),
            Some("system:serviceaccount:shop:default")
        );
        assert_eq!(user("hunter2"), None);
        assert_eq!(user("User \"hunter2\nx\""), None);
        assert_eq!(user(&format!("User \"{}\"", "a".repeat(1000))), None);
    }
}
