//! What a configuration selects by and an agent cannot know where it runs: told at start, not at the first
//! program that is refused for it.

use crate::{
    config::{Config, Position},
    observe::NODE_NAME,
    process::{LABELS, POD_NAMESPACE, Pod},
};

/// Each place where it is said, and what to do. `pod` is the one that all the agent sees belongs to; `has_labels`
/// whether it was given that pod's labels, `has_pods` whether an agent of a node can ask for those of its pods.
pub(crate) fn find(
    config: &Config,
    pod: Option<&Pod>,
    has_labels: bool,
    has_pods: bool,
) -> Vec<(Position, String)> {
    let mut found: Vec<(Position, String)> = objects(config, has_pods).into_iter().collect();
    for binding in &config.secrets {
        let selector = &binding.selector;
        let mut tell = |key: &str, why: String| {
            let name = &binding.name;
            found.push((
                selector.at,
                format!("binding {name}: selector.{key}: {why}"),
            ));
        };
        let keys = [
            ("namespace", selector.namespace.is_some()),
            ("labels", !selector.labels.is_empty()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
            match pod {
                None if has_pods => {}
                None => tell(
                    key,
                    format!(
                        "an agent outside of the program's pod has to ask the API for this, and this one cannot. Give it the node's name in {NODE_NAME} (fieldRef spec.nodeName) and a service account that may read pods, as deploy/daemonset.yaml and deploy/rbac.yaml do; or run it as a sidecar (shareProcessNamespace: true), or select by container or cgroupPath"
                    ),
                ),
                Some(pod) if key == "namespace" && pod.namespace.is_none() => tell(
                    key,
                    format!(
                        "set {POD_NAMESPACE} for the agent (fieldRef metadata.namespace), as `kernelseal inject` does"
                    ),
                ),
                Some(_) if key == "labels" && !has_labels => tell(
                    key,
                    format!(
                        "give the agent its pod's labels as {LABELS} (a downwardAPI volume), as `kernelseal inject` does"
                    ),
                ),
                Some(_) => {}
            }
        }
    }
    found
}

/// The same of objects that ask for system calls.
fn objects(config: &Config, has_pods: bool) -> Option<(Position, String)> {
    let syscalls = &config.monitoring.syscalls;
    let at = syscalls
        .objects_at
        .filter(|_| syscalls.objects && !has_pods)?;
    let why = format!(
        "monitoring.syscalls.objects: SyscallMonitor objects need a node agent with access to the API; this agent has none. Give it the node's name in {NODE_NAME} (fieldRef spec.nodeName) and a service account, as deploy/daemonset.yaml and deploy/rbac.yaml do; or remove the key"
    );
    Some((at, why))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{load, parse};

    /// What an example begins with that is not to be started.
    const SHOWCASE: &str = "# A showcase";

    #[test]
    fn an_example_can_run_or_says_at_its_top_that_it_cannot() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_showcase = fs::read_to_string(&path).unwrap().starts_with(SHOWCASE);
            let found = find(&load(&path).unwrap(), None, false, false);
            let name = path.display();
            assert_eq!(is_showcase, !found.is_empty(), "{name}: {found:?}");
        }
    }

    #[test]
    fn objects_are_for_an_agent_of_a_node() {
        let told = |value: &str, has_pods| {
            let text = format!("version: v1\nmonitoring:\n  syscalls: {{objects: {value}}}\n");
            let config = parse(&text, Path::new("config.yaml")).unwrap();
            find(&config, None, false, has_pods)
        };
        let found = told("true", false);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.to_string(), "3:23");
        assert!(found[0].1.contains("NODE_NAME"), "{}", found[0].1);
        assert!(told("true", true).is_empty());
        assert!(told("false", false).is_empty());
    }

    #[test]
    fn what_is_lacking_is_told_with_its_place() {
        let text = "version: v1
secrets:
  - name: a
    selector: {binary: a, container: app, namespace: shop, labels: {app: a}}
    secretRefs:
      - {name: X, source: {value: x}}
";
        let config = parse(text, Path::new("config.yaml")).unwrap();
        let told = |pod: Option<&Pod>, has_labels| -> Vec<String> {
            find(&config, pod, has_labels, false)
                .into_iter()
                .map(|(at, what)| format!("{at}: {what}"))
                .collect()
        };
        let on_a_node = told(None, true);
        assert_eq!(on_a_node.len(), 2);
        assert!(on_a_node[0].starts_with("4:15: binding a: selector.namespace: an agent outside"));
        assert!(on_a_node[0].contains("NODE_NAME"), "{on_a_node:?}");
        assert!(find(&config, None, false, true).is_empty());
        let untold = told(Some(&Pod::default()), false);
        assert!(untold[0].contains("set POD_NAMESPACE"), "{untold:?}");
        assert!(untold[1].contains("/etc/podinfo/labels"), "{untold:?}");
        let pod = Pod {
            namespace: Some("shop".into()),
            ..Pod::default()
        };
        assert!(told(Some(&pod), true).is_empty());
    }
}
