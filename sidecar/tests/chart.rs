//! The chart, by Helm's own code (`KERNELSEAL_HELM`), in a real API server: `make test-kube`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kernelseal_servers::{ADMIN_TOKEN, ApiServer};
use serde_json::Value;
use tempfile::TempDir;

const NAMESPACE: &str = "of-the-chart";
/// What the API server of these tests (1.20) knows of the chart: the agent of a node. Of the webhook it lacks versions
/// that we ask for.
const KNOWN: [&str; 2] = ["--set", "webhook.enabled=false"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn helm() -> PathBuf {
    let program = env::var_os("KERNELSEAL_HELM").expect(
        "these tests run Helm: set KERNELSEAL_HELM to the program `helm`; `make test-kube` brings one (tests/servers/helm)",
    );
    // As a shell has it: a name is looked for on the PATH.
    if Path::new(&program).components().count() == 1 {
        return program.into();
    }
    repository().join(program)
}

fn run(command: &mut Command) -> Output {
    command
        .current_dir(repository())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn said_by(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_tests_judge_is_what_helm_renders() {
    let judged = fs::read_to_string(repository().join("sidecar/tests/manifests/chart.yaml"));
    let rendered = said_by(&mut Command::new("tests/servers/render-chart"));
    // Versions of Helm differ in the order of documents, and in empty lines.
    let documents = |text: &str| {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let all = all
            .iter()
            .filter(|one| !one.is_null())
            .map(Value::to_string);
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    };
    assert_eq!(
        documents(&judged.unwrap()),
        documents(&rendered),
        "the chart gives something else: run `make chart`, and see what"
    );
}

#[test]
fn helm_has_nothing_to_say_against_the_chart() {
    let test_values = ["--values", "deploy/helm/test-values.yaml"];
    for options in [&[][..], &test_values] {
        said_by(
            Command::new(helm())
                .args(["lint", "--strict", "deploy/helm"])
                .args(options),
        );
    }
}

/// A copy of the chart that an older API server takes: without the version it asks for, and why it does.
fn chart_for_older(dir: &Path) -> PathBuf {
    let chart = dir.join("kernelseal");
    let mut copy = Command::new("cp");
    said_by(copy.arg("-r").arg("deploy/helm").arg(&chart));
    for (file, newer) in [
        ("Chart.yaml", "kubeVersion:"),
        ("templates/_helpers.tpl", "appArmorProfile:"),
    ] {
        let file = chart.join(file);
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let older: Vec<&str> = lines
            .iter()
            .copied()
            .filter(|line| !line.starts_with(newer))
            .collect();
        assert_eq!(older.len(), lines.len() - 1, "{newer}");
        fs::write(&file, older.join("\n")).unwrap();
    }
    chart
}

#[test]
fn helm_installs_upgrades_and_takes_away_the_agent_of_a_node() {
    let (server, dir) = (ApiServer::shared(), TempDir::new().unwrap());
    server.namespace(NAMESPACE).unwrap();
    let chart = chart_for_older(dir.path());
    let kubeconfig = server
        .kubeconfig(dir.path(), server.url(), NAMESPACE, ADMIN_TOKEN)
        .unwrap();
    let helm = |verb: &[&str], options: &[&str]| {
        let mut command = Command::new(helm());
        command.args(verb).args(options);
        command.args(["--namespace", NAMESPACE]);
        said_by(command.env("KUBECONFIG", &kubeconfig))
    };
    let (path, values) = (chart.to_str().unwrap(), "deploy/helm/test-values.yaml");
    let object = |path: &str| server.read(path).ok();
    let of_namespace = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/kernelseal");
    let agent = || object(&of_namespace);
    let config = || {
        object(&format!(
            "/api/v1/namespaces/{NAMESPACE}/configmaps/kernelseal"
        ))
    };
    let checksum = |daemon: &Value| {
        let annotations = &daemon["spec"]["template"]["metadata"]["annotations"];
        annotations["checksum/config"].as_str().unwrap().to_owned()
    };

    helm(&["install", "kernelseal", path], &KNOWN);
    let first = agent().expect("an agent");
    let definition =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/syscallmonitors.kernelseal.io";
    assert!(object(definition).is_some());

    let with_all = [
        &KNOWN[..],
        &["--set", "podMonitor.enabled=false", "--values", values],
    ]
    .concat();
    helm(&["upgrade", "kernelseal", path], &with_all);
    let text = config().unwrap()["data"]["config.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(text.contains("RESTIC_PASSWORD"), "{text}");
    let file = dir.path().join("config.yaml");
    fs::write(&file, text).unwrap();
    said_by(
        Command::new(env!("CARGO_BIN_EXE_kernelseal"))
            .arg("validate")
            .arg(&file),
    );
    assert_ne!(
        checksum(&first),
        checksum(&agent().unwrap()),
        "the agents stay as they were"
    );

    helm(&["uninstall", "kernelseal"], &[]);
    assert!(config().is_none(), "it is still there");
    let gone = agent().is_none_or(|daemon| !daemon["metadata"]["deletionTimestamp"].is_null());
    assert!(gone, "the agents are still there");
}
