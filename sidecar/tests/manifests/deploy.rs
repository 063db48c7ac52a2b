//! What we hand out: every document is valid, names belong together, and nobody has more rights than said.

use std::collections::BTreeSet;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;

/// The agent's, each explained in deploy/sidecar-pod.yaml.
const CAPABILITIES: [&str; 8] = [
    "SYS_ADMIN",
    "SYS_PTRACE",
    "SYS_CHROOT",
    "DAC_OVERRIDE",
    "CHOWN",
    "KILL",
    "IPC_LOCK",
    "SYS_RESOURCE",
];

/// Every manifest and document of ours.
fn ours() -> Vec<(PathBuf, Value)> {
    ["deploy", "deploy/webhook", "deploy/examples"]
        .iter()
        .flat_map(|name| manifests(&folder(name)))
        .flat_map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            documents(&text)
                .into_iter()
                .map(move |document| (file.clone(), document))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    ours()
        .into_iter()
        .map(|(_, document)| document)
        .filter(|document| document["kind"] == kind)
        .collect()
}

#[test]
fn every_document_is_valid() {
    let ours = ours();
    assert!(ours.len() > 20, "{}", ours.len());
    for (file, document) in ours {
        assert_eq!(
            strict::faults(&document),
            Vec::<String>::new(),
            "{} {}",
            file.display(),
            document["kind"]
        );
    }
}

#[test]
fn what_the_chart_gives_is_valid_and_the_charts_own() {
    let text = fs::read_to_string(folder("sidecar/tests/manifests/chart.yaml")).unwrap();
    let mut files = Vec::new();
    for part in ["deploy/helm", "deploy/helm/crds", "deploy/helm/templates"] {
        let entries = fs::read_dir(folder(part))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.is_file()));
    }
    files.sort_by_key(|path| path.to_string_lossy().into_owned());
    let mut digest = Sha256::new();
    for file in files {
        digest.update(fs::read(file).unwrap());
    }
    let told = text.lines().next().unwrap();
    assert_eq!(
        told,
        format!("# sha256 {}", hex::encode(digest.finalize())),
        "the chart has changed: run `make chart`"
    );

    let documents = documents(&text);
    for kind in [
        "DaemonSet",
        "Role",
        "MutatingWebhookConfiguration",
        "Certificate",
        "PodMonitor",
    ] {
        assert!(
            documents.iter().any(|document| document["kind"] == kind),
            "{kind}"
        );
    }
    for document in &documents {
        assert_eq!(
            strict::faults(document),
            Vec::<String>::new(),
            "{}",
            document["kind"]
        );
    }
    // The same agent as deploy/daemonset.yaml's.
    let container =
        |document: &Value| document["spec"]["template"]["spec"]["containers"][0].clone();
    let shown = of_kind("DaemonSet");
    let given = documents
        .iter()
        .find(|document| document["kind"] == "DaemonSet")
        .unwrap();
    for key in [
        "securityContext",
        "resources",
        "ports",
        "env",
        "startupProbe",
        "livenessProbe",
        "readinessProbe",
    ] {
        assert_eq!(container(given)[key], container(&shown[0])[key], "{key}");
    }
    // And the same webhook as deploy/webhook's, but for the certificate of its own.
    let given = documents
        .iter()
        .find(|document| document["kind"] == "MutatingWebhookConfiguration")
        .unwrap();
    assert_eq!(
        given["webhooks"],
        of_kind("MutatingWebhookConfiguration")[0]["webhooks"]
    );
}

#[test]
fn the_examples_sidecars_are_as_inject_writes_them() {
    let mut files = manifests(&folder("deploy/examples"));
    files.retain(|file| !file.ends_with("syscallmonitor.yaml")); // (which has none)
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        // Its first lines tell with which options.
        let told = text
            .lines()
            .find_map(|line| line.split_once("`kernelseal inject "))
            .unwrap()
            .1;
        let more: Vec<_> = told.trim_end_matches("`.").split(' ').collect();
        let output = inject(&file, &more);
        // A sidecar that differs would be noted.
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert!(
            matches!(lines[..], [config, own] if config.ends_with(": skipped: no pod in it") && own.ends_with(": already there")),
            "{}: {said}",
            file.display()
        );
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            text,
            "{}",
            file.display()
        );
    }
}

#[test]
fn what_a_kustomization_names_is_there() {
    for name in ["deploy", "deploy/webhook"] {
        let folder = folder(name);
        let text = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
        for resource in documents(&text)[0]["resources"].as_array().unwrap() {
            assert!(
                folder.join(resource.as_str().unwrap()).is_file(),
                "{resource}"
            );
        }
    }
}

#[test]
fn every_configuration_is_accepted() {
    let mut seen = 0;
    for document in of_kind("ConfigMap") {
        let Some(config) = document["data"]["config.yaml"].as_str() else {
            continue;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
            .arg("validate")
            .arg(file.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{}: {said}",
            document["metadata"]["name"]
        );
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn the_capabilities_are_these_and_nobody_is_privileged() {
    let mut seen = 0;
    for (file, document) in ours() {
        let spec = document
            .pointer("/spec/template/spec")
            .unwrap_or(&document["spec"]);
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                let security = &container["securityContext"];
                assert!(security["privileged"].is_null(), "{}", file.display());
                if let Some(added) = security["capabilities"]["add"].as_array() {
                    assert_eq!(added, &CAPABILITIES.map(Value::from), "{}", file.display());
                    assert_eq!(security["capabilities"]["drop"][0], "ALL");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn roles_read_named_secrets_pods_and_asking_objects_and_write_only_status_and_events() {
    let of_chart = fs::read_to_string(folder("sidecar/tests/manifests/chart.yaml")).unwrap();
    let of_chart = documents(&of_chart);
    for (all, kind) in [
        ("deploy", "Role"),
        ("the chart", "Role"),
        ("deploy", "ClusterRole"),
        ("the chart", "ClusterRole"),
    ] {
        let roles: Vec<Value> = if all == "deploy" {
            of_kind(kind)
        } else {
            of_chart
                .iter()
                .filter(|document| document["kind"] == kind)
                .cloned()
                .collect()
        };
        assert!(!roles.is_empty(), "{all}: no {kind}");
        for rule in roles
            .iter()
            .flat_map(|role| role["rules"].as_array().unwrap())
        {
            let names = &rule["resourceNames"];
            let allowed = (&rule["resources"], &rule["verbs"]);
            if kind == "Role" {
                assert!(!names.as_array().unwrap().is_empty());
                assert_eq!(
                    allowed,
                    (&json!(["secrets"]), &json!(["get", "list", "watch"])),
                    "{all}"
                );
            } else {
                // An agent of a node asks for its pods; no role can be narrower.
                let heard = json!(["list", "watch"]);
                let right = match rule["resources"][0].as_str().unwrap() {
                    "pods" | "syscallmonitors" | "kubewards" => &heard,
                    "events" => &json!(["create"]),
                    "syscallmonitors/status" => &json!(["patch"]),
                    other => panic!("{all}: {other}"),
                };
                assert_eq!(allowed, (&json!([rule["resources"][0]]), right), "{all}");
            }
        }
    }
}

/// The names in a query that are ours, without a histogram's endings.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("kernelseal_"))
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let sources = ["metrics", "traffic"]
        .map(|name| fs::read_to_string(folder(&format!("sidecar/src/observe/{name}.rs"))).unwrap());
    let exist = metrics_in(&sources.concat());
    let dashboard = fs::read_to_string(folder("deploy/dashboard.json")).unwrap();
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(parsed["uid"], "kernelseal");
    let shown = metrics_in(&dashboard);
    assert_eq!(
        shown, exist,
        "the dashboard shows each metric, and none that is not there"
    );

    for object in of_kind("PrometheusRule") {
        let rules: crds::PrometheusRule = serde_json::from_value(object["spec"].clone()).unwrap();
        for rule in rules.groups.iter().flat_map(|group| &group.rules) {
            let asked = metrics_in(&rule.expr);
            assert!(asked.is_subset(&exist), "{}: {asked:?}", rule.alert);
            assert!(rule.labels.contains_key("severity"), "{}", rule.alert);
            assert!(
                rule.annotations.contains_key("summary")
                    && rule.annotations.contains_key("description"),
                "{}",
                rule.alert
            );
        }
    }
}

#[test]
fn the_webhooks_parts_belong_together() {
    let configuration = &of_kind("MutatingWebhookConfiguration")[0];
    let certificate = &of_kind("Certificate")[0];
    for webhook in configuration["webhooks"].as_array().unwrap() {
        let service = &webhook["clientConfig"]["service"];
        let host = format!(
            "{}.{}.svc",
            service["name"].as_str().unwrap(),
            service["namespace"].as_str().unwrap()
        );
        assert_eq!(certificate["spec"]["dnsNames"][0], host.as_str());
        assert_eq!(service["path"], "/mutate");
    }
    // The options are ones the program takes: it gets as far as the certificate, which is not there.
    let server = of_kind("Deployment")
        .into_iter()
        .find(|it| it["metadata"]["name"] == "kernelseal-webhook")
        .unwrap();
    let args = server["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap()
        .clone();
    let output = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
        .args(args.iter().map(|it| it.as_str().unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("/etc/kernelseal/tls/tls.crt cannot be read"),
        "{said}"
    );
}
