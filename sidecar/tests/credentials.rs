//! What a start says of credentials for the API that are missing, or no good. No server is asked.

use std::{fs, path::Path, process::Command};

fn run(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernelseal"));
    command
        .args(["run", "--config"])
        .arg(dir.join("config.yaml"))
        .env_clear();
    command
}

#[test]
fn with_neither_a_mount_nor_the_api_both_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = "version: v1
policy: {mode: disabled}
secrets:
  - name: a
    selector: {binary: /nowhere/a}
    secretRefs:
      - {name: PASSWORD, source: {secretKeyRef: {name: db, key: password}}}
monitoring: {enabled: false}
secretsDir: /nowhere
";
    fs::write(dir.path().join("config.yaml"), config).unwrap();
    let output = run(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    for part in [
        "config.yaml:7:9",
        "db/password",
        "/nowhere/db",
        "automountServiceAccountToken",
        "KUBECONFIG",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// A kubeconfig that would have anybody answer, or quote itself, is refused without quoting it.
#[test]
fn credentials_that_are_no_good_are_refused_and_not_quoted() {
    for (kubeconfig, part) in [
        ("{users: [{name: a, user: {token: hunter2", "not the YAML"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {token: hunter2}}]}",
            "is not authenticated",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}], users: [{name: a, user: {token: hunter2}}]}",
            "is not authenticated",
        ),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: a, user: {exec: {command: hunter2, apiVersion: v1}}}]}",
            "run a program",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = "version: v1
policy: {mode: disabled}
secrets:
  - {name: a, selector: {binary: /nowhere/a}, secretRefs: [{name: P, source: {secretKeyRef: {name: db, key: p}}}]}
monitoring: {enabled: false}
";
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let file = dir.path().join("kubeconfig");
        fs::write(&file, kubeconfig).unwrap();
        let output = run(dir.path()).env("KUBECONFIG", &file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains(part), "{part}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
