//! The container and the pod of a process, by what people and Kubernetes call them.

use serde::Serialize;

/// A pod, by what Kubernetes calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodRef {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The API server's own number for it, where it is known: by that `kubectl describe` finds its events.
    pub(crate) uid: Option<String>,
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
/// Digits of the whole of it. Names have 63 characters at most.
const WHOLE_ID: usize = 64;

impl Container {
    /// Whether it is called so, by its name or its id; `None` if that cannot be said.
    pub(crate) fn is_called(&self, wanted: &str) -> Option<bool> {
        if wanted.len() >= SHORT_ID && self.id.starts_with(wanted) {
            return Some(true);
        }
        if wanted.len() == WHOLE_ID {
            return Some(false);
        }
        self.name.as_ref().map(|name| name == wanted)
    }
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
        // a whole id is no name
        assert_eq!(container.is_called(&"a".repeat(64)), Some(false));
    }
}
