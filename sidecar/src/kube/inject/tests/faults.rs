//! What cannot have a sidecar: an error with its place, and nothing written.

use super::*;

fn faults(source: &str) -> Vec<(usize, usize, String)> {
    let faults = done(source, &[], Task::Add, Unfit::Fail).expect_err(source);
    faults
        .0
        .iter()
        .map(|fault| {
            let at = fault.at.unwrap();
            (at.line, at.column, format!("{fault}"))
        })
        .collect()
}

fn pod(more: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nspec:\n{more}  containers:\n  - name: app\n    image: b\n")
}

#[test]
fn each_names_the_place_the_cause_and_the_way_out() {
    let cases = [
        (
            pod("  hostPID: true\n"),
            (4, 12),
            "node's process namespace",
            "daemonset",
        ),
        (
            pod("  shareProcessNamespace: false\n"),
            (4, 26),
            "separate process namespaces",
            "remove the line",
        ),
        (
            pod("  shareProcessNamespace: yes\n"),
            (4, 26),
            "neither true nor false",
            "true",
        ),
        (
            pod("  os: {name: windows}\n"),
            (4, 14),
            "Windows",
            "kernelseal.io/inject",
        ),
        (
            pod("  volumes: {}\n"),
            (4, 12),
            "volumes is not a list",
            "a list",
        ),
        (
            pod("  hostIPC: true\n  hostIPC: true\n"),
            (5, 3),
            "a key that is there already",
            "once",
        ),
        (
            pod("  <<: {hostPID: true}\n"),
            (4, 3),
            "a merge key",
            "once",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nspec: {a: b}\nspec:\n  template: {}\n".into(),
            (4, 1),
            "a key that is there already",
            "once",
        ),
        (
            "apiVersion: v1\nkind: Pod\n".into(),
            (1, 1),
            "no pod without a spec",
            "mapping",
        ),
        (
            "apiVersion: v1\nkind: Pod\nspec: {containers: []}\n".into(),
            (3, 20),
            "containers is not a list",
            "a list",
        ),
        ("a: [\n".into(), (1, 4), "not valid YAML", "bracket"),
        ("a: b: c\n".into(), (1, 5), "not valid YAML", "colon"),
    ];
    for (source, at, message, help) in cases {
        let found = faults(&source);
        let (line, column, text) = &found[0];
        assert_eq!((*line, *column), at, "{text}\n{source}");
        assert!(
            text.starts_with(&format!("app.yaml:{line}:{column}: ")),
            "{text}"
        );
        assert!(text.contains(message) && text.contains(help), "{text}");
    }
}

#[test]
fn a_port_that_another_container_has_is_not_taken() {
    let source = pod("") + "    ports:\n    - containerPort: 9090\n";
    let found = faults(&source);
    assert_eq!((found[0].0, found[0].1), (8, 22), "{found:?}");
    assert!(found[0].2.contains("--metrics-port"), "{found:?}");
    injected(&source, &["--metrics-port", "9191"]);
    injected(&source.replace("9090", "9090\n      protocol: UDP"), &[]);
}

#[test]
fn every_pod_of_a_file_is_told_of() {
    let source =
        pod("  hostPID: true\n") + "---\n" + &pod("") + "---\n" + &pod("  hostPID: true\n");
    let lines: Vec<_> = faults(&source).iter().map(|fault| fault.0).collect();
    assert_eq!(lines, [4, 19]);
}

#[test]
fn who_keeps_going_has_them_left_alone_and_noted() {
    let unfit = pod("  hostPID: true\n");
    let source = unfit.clone() + "---\n" + &pod("");
    let done = super::done(&source, &[], Task::Add, Unfit::Keep).unwrap();
    assert!(done.text.starts_with(&unfit), "{}", done.text);
    assert_eq!(
        documents(&done.text)[1]["spec"]["initContainers"][0]["name"],
        "kernelseal"
    );
    let report = done.objects[0].clone().told().to_string();
    assert!(
        report.starts_with("app.yaml:4:12: Pod: skipped: the pod lives in the node's"),
        "{report}"
    );
}

#[test]
fn who_declines_is_left_alone_and_noted() {
    for says in [
        "labels: {kernelseal.io/inject: \"false\"}",
        "annotations: {kernelseal.io/inject: \"false\"}",
    ] {
        let source =
            pod("  hostPID: true\n").replace("spec:", &format!("metadata:\n  {says}\nspec:"));
        let done = injected(&source, &[]);
        assert_eq!(done.text, source);
        let why = "kernelseal.io/inject is \"false\"".to_owned();
        assert_eq!(done.objects[0].outcome, Outcome::Skipped(why));
    }
}

#[test]
fn what_stands_elsewhere_is_not_edited_behind_its_back() {
    let source = "apiVersion: v1\nkind: Pod\nmetadata: &x {name: a}\nspec:\n  containers: &c\n  - name: a\n    image: b\n  initContainers: *c\n";
    let found = faults(source);
    assert!(found[0].2.contains("an alias"), "{found:?}");
    assert_eq!((found[0].0, found[0].1), (8, 19));
}

#[test]
fn a_foreign_container_of_the_name_is_refused() {
    let source = pod("").replace("name: app", "name: kernelseal");
    let found = faults(&source);
    assert_eq!((found[0].0, found[0].1), (5, 11), "{found:?}");
    assert!(found[0].2.contains("--name"), "{found:?}");
    injected(&source, &["--name", "sealer"]);
}

#[test]
fn a_foreign_volume_of_a_name_of_ours_is_refused() {
    // Whoever else may write to it would write the configuration.
    let source = pod("  volumes:\n  - {name: kernelseal-config, emptyDir: {}}\n");
    let found = faults(&source);
    assert_eq!((found[0].0, found[0].1), (5, 12), "{found:?}");
    assert!(found[0].2.contains("a configMap"), "{found:?}");
}

#[test]
fn a_sidecar_that_differs_stays_and_is_told_of() {
    let own = injected(&pod(""), &[]).text;
    assert!(injected(&own, &[]).notes.is_empty());
    let other = own.replace("memory: 96Mi", "memory: 128Mi");
    let done = injected(&other, &[]);
    assert_eq!(done.text, other);
    assert_eq!(done.objects[0].outcome, Outcome::Different);
    assert!(
        done.notes[0].message.contains("differs") && done.notes[0].help.contains("--upgrade"),
        "{}",
        done.notes[0]
    );
}

#[test]
fn no_message_quotes_a_secret() {
    for source in [
        "kind: Secret\nstringData:\n  a: hunter2: x\n",
        "kind: Secret\nstringData:\n  a: \"hunter2\n",
        "kind: Secret\nstringData: {a: *hunter2}\n",
        "kind: Secret\nstringData: {a: !hunter2! b}\n",
    ] {
        let found = faults(source);
        assert!(!found[0].2.contains("hunter2"), "{found:?}");
    }
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut source = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let before = format!("*a{}", level - 1);
        let list = [before.as_str(); 10].join(", ");
        source = format!("{source}a{level}: &a{level} [{list}]\n");
    }
    assert!(faults(&source)[0].2.contains("too many nodes"));
}
