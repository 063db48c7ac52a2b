//! What an object asks for, whichever kind it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_core::Selector;
use serde::Deserialize;
use serde_json::Value;

/// What functions of system calls are called before the calls' own names, as `KubeWard` objects write them.
const PREFIXES: [&str; 3] = ["__x64_sys_", "__arm64_sys_", "sys_"];

/// Words that one object may have, of each kind (there are some 400 system calls), and bytes of one. The definition has such limits, but
/// who may change that, or makes a `KubeWard`, need not know them.
const MOST_WORDS: usize = 1_000;
const LONGEST_WORD: usize = 253;

/// What one object asks for. Nothing in here is known to be a system call yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spec {
    /// Only programs of this namespace's pods.
    pub(crate) namespace: Option<String>,
    /// And of these only pods with such labels.
    pub(crate) pods: Selector,
    /// Categories of system calls.
    pub(crate) categories: Vec<String>,
    /// System calls.
    pub(crate) names: Vec<String>,
    /// Names or ids of containers; empty for all.
    pub(crate) containers: Vec<String>,
    /// Users; empty for all.
    pub(crate) uids: Vec<u32>,
    /// Only what fails.
    pub(crate) failed: bool,
}

/// A `SyscallMonitor`'s. What a newer definition has, and may be narrower by, is not to be passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SyscallMonitor {
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    containers: Vec<String>,
    #[serde(default)]
    pod_selector: LabelSelector,
    #[serde(default)]
    uids: Vec<u32>,
    #[serde(default)]
    failed: bool,
}

/// A `KubeWard`'s. Its definition knows no limits: what it asks for beside probes is passed over, as its own agent does.
#[derive(Deserialize)]
struct KubeWard {
    #[serde(default)]
    kprobe: Vec<Probe>,
    #[serde(default)]
    kretprobe: Vec<Probe>,
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    name: String,
}

impl Spec {
    /// By a `SyscallMonitor` of that namespace.
    pub(super) fn of_syscall_monitor(namespace: &str, spec: &Value) -> Result<Self, String> {
        let spec = SyscallMonitor::deserialize(spec).map_err(|e| refused(&e))?;
        let selector = &spec.pod_selector;
        let labels = selector.match_labels.iter().flatten();
        let expressions = selector.match_expressions.iter().flatten();
        within_limits("spec.categories", spec.categories.iter())?;
        within_limits("spec.names", spec.names.iter())?;
        within_limits("spec.containers", spec.containers.iter())?;
        within_limits(
            "spec.podSelector",
            labels
                .flat_map(|(key, value)| [key, value])
                .chain(expressions.flat_map(|one| one.values.iter().flatten().chain([&one.key]))),
        )?;
        if spec.uids.len() > MOST_WORDS {
            return Err(format!("spec.uids: more than {MOST_WORDS}"));
        }
        let pods = Selector::try_from(spec.pod_selector);
        Ok(Self {
            namespace: Some(namespace.to_owned()),
            pods: pods.map_err(|e| format!("spec.podSelector: {}", e.0))?,
            categories: spec.categories,
            names: spec.names,
            containers: spec.containers,
            uids: spec.uids,
            failed: spec.failed,
        })
    }

    /// By a `KubeWard`: of all programs, whether it names a call's beginning, its end, or both.
    pub(super) fn of_kubeward(spec: &Value) -> Result<Self, String> {
        let spec = KubeWard::deserialize(spec).map_err(|e| refused(&e))?;
        let probes = spec.kprobe.into_iter().chain(spec.kretprobe);
        let mut names: Vec<String> = probes.map(|probe| bare(&probe.name).to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        within_limits("spec", names.iter())?;
        Ok(Self {
            names,
            ..Self::default()
        })
    }
}

/// What is too much is kept of no object.
fn within_limits<'w>(what: &str, words: impl Iterator<Item = &'w String>) -> Result<(), String> {
    for (count, word) in words.enumerate() {
        if count >= MOST_WORDS {
            return Err(format!("{what}: more than {MOST_WORDS} words"));
        }
        if word.len() > LONGEST_WORD {
            return Err(format!("{what}: a word of more than {LONGEST_WORD} bytes"));
        }
    }
    Ok(())
}

fn refused(error: &serde_json::Error) -> String {
    format!(
        "spec: {error}. This agent is not of the definition's version: `kernelseal crd` prints its own"
    )
}

/// A system call's name, of its function's.
fn bare(function: &str) -> &str {
    let mut found = PREFIXES.iter().filter_map(|it| function.strip_prefix(it));
    found.next().unwrap_or(function)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube_core::SelectorExt as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_syscall_monitor_asks_for_pods_of_its_namespace() {
        let spec = json!({
            "categories": ["network"], "names": ["openat"], "containers": ["app"], "uids": [0, 4_294_967_295_u32],
            "failed": true, "podSelector": {
                "matchLabels": {"app": "shop"},
                "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}],
            },
        });
        let asked = Spec::of_syscall_monitor("shop", &spec).unwrap();
        assert_eq!(asked.namespace.as_deref(), Some("shop"));
        assert_eq!((asked.uids, asked.failed), (vec![0, u32::MAX], true));
        let has = |tier: &str| {
            let labels = [("app", "shop"), ("tier", tier)];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
            asked.pods.matches(&BTreeMap::from(labels))
        };
        assert!(has("web") && !has("db"));
        let least = Spec::of_syscall_monitor("shop", &json!({"names": ["openat"]})).unwrap();
        assert!(least.pods.selects_all() && !least.failed);
    }

    #[test]
    fn what_is_not_understood_is_not_passed_over() {
        let spec = json!({"names": ["openat"], "onlyOnSundays": true});
        let said = Spec::of_syscall_monitor("shop", &spec).unwrap_err();
        assert!(
            said.contains("onlyOnSundays") && said.contains("kernelseal crd"),
            "{said}"
        );
        let spec = json!({"names": ["openat"], "podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}});
        let said = Spec::of_syscall_monitor("shop", &spec).unwrap_err();
        assert!(said.starts_with("spec.podSelector: "), "{said}");
    }

    #[test]
    fn nobody_asks_for_more_than_we_remember() {
        let of = |spec: Value| Spec::of_syscall_monitor("shop", &spec).map(drop);
        let many = vec!["x"; MOST_WORDS + 1];
        let long = "x".repeat(LONGEST_WORD + 1);
        for (what, spec) in [
            ("spec.names", json!({"names": many})),
            ("spec.containers", json!({"containers": [long]})),
            ("spec.categories", json!({"categories": many})),
            (
                "spec.uids",
                json!({"names": ["openat"], "uids": vec![1; MOST_WORDS + 1]}),
            ),
            (
                "spec.podSelector",
                json!({"podSelector": {"matchLabels": {"a": long}}}),
            ),
        ] {
            let said = of(spec).unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
        let probes: Vec<_> = (0..=MOST_WORDS)
            .map(|n| json!({"name": format!("f{n}")}))
            .collect();
        let said = Spec::of_kubeward(&json!({"kprobe": probes})).unwrap_err();
        assert!(said.starts_with("spec: more than"), "{said}");
    }

    #[test]
    fn a_kubewards_probes_are_system_calls_of_all_programs() {
        let spec = json!({
            "kprobe": [{"name": "sys_openat"}, {"name": "__x64_sys_connect"}],
            "kretprobe": [{"name": "sys_openat"}, {"name": "execve"}],
        });
        let asked = Spec::of_kubeward(&spec).unwrap();
        assert_eq!(asked.names, ["connect", "execve", "openat"]);
        assert_eq!(asked.namespace, None);
        assert!(Spec::of_kubeward(&json!({"kprobe": "sys_openat"})).is_err());
    }
}
