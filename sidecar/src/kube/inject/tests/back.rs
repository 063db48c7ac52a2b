//! `uninject` and `--upgrade`: what came with a sidecar goes, and nothing else does.

use super::*;

const PLAIN: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: checkout   # two of them
spec:
  template:
    spec:
      # The application.
      containers:
      - name: checkout
        image: registry.example/checkout:1.0.0
        args:
        - |
          # not a comment
          exec checkout
      volumes:
      - name: scratch
        emptyDir: {}

# What comes after.
---
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"json\"},
 \"spec\": {\"containers\": [{\"name\": \"a\", \"image\": \"b\", \"securityContext\": {\"readOnlyRootFilesystem\": true}}]}}
";

fn removed(source: &str) -> Edited {
    done(source, &[], Task::Remove, Unfit::Fail)
        .unwrap_or_else(|faults| panic!("{faults}\n{source}"))
}

fn upgraded(source: &str, more: &[&str]) -> Edited {
    done(source, more, Task::Upgrade, Unfit::Fail)
        .unwrap_or_else(|faults| panic!("{faults}\n{source}"))
}

#[test]
fn uninject_after_inject_gives_back_every_byte() {
    for more in [
        &[][..],
        &["--older-cluster"],
        &["--mount-secret", "db", "--api-token"],
    ] {
        let back = removed(&injected(PLAIN, more).text);
        assert_eq!(back.text, PLAIN, "{more:?}");
        assert!(
            back.objects
                .iter()
                .all(|object| object.outcome == Outcome::Removed)
        );
        assert!(back.notes.is_empty(), "{:?}", back.notes);
    }
}

#[test]
fn uninject_keeps_what_was_the_pods_own() {
    let own = PLAIN.replace(
        "      # The application.",
        "      shareProcessNamespace: true\n      # The application.",
    );
    let back = removed(&injected(&own, &[]).text);
    assert_eq!(back.text, own);
    assert!(
        back.notes[0]
            .message
            .contains("shareProcessNamespace stays")
    );
}

#[test]
fn uninject_leaves_a_volume_that_another_container_mounts() {
    let both = injected(PLAIN, &[]).text.replace(
        "        image: registry.example/checkout:1.0.0\n",
        "        image: registry.example/checkout:1.0.0\n        volumeMounts: [{name: kernelseal-pod, mountPath: /x}]\n",
    );
    let back = removed(&both).text;
    let names: Vec<_> = documents(&back)[0]["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].clone())
        .collect();
    assert_eq!(names, ["scratch", "kernelseal-pod"]);
}

#[test]
fn uninject_of_a_pod_without_a_sidecar_changes_nothing() {
    let back = removed(PLAIN);
    assert_eq!(back.text, PLAIN);
    assert!(!back.objects[0].outcome.is_done());
    // Nor is a container of the name taken for one.
    let foreign = PLAIN.replace("name: checkout\n", "name: kernelseal\n");
    assert_eq!(removed(&foreign).text, foreign);
}

#[test]
fn upgrade_replaces_a_sidecar_that_differs_and_no_other() {
    let old = injected(PLAIN, &[])
        .text
        .replace("kernelseal:0.1.0", "kernelseal:0.0.9");
    let done = upgraded(&old, &["--mount-secret", "db"]);
    assert_eq!(done.text, injected(PLAIN, &["--mount-secret", "db"]).text);
    assert!(
        done.objects
            .iter()
            .all(|object| object.outcome == Outcome::Upgraded)
    );
    let same = upgraded(&done.text, &["--mount-secret", "db"]);
    assert_eq!(same.text, done.text);
    assert!(
        same.objects
            .iter()
            .all(|object| object.outcome == Outcome::AlreadyThere)
    );
    // What has none gets one, as without.
    assert_eq!(upgraded(PLAIN, &[]).text, injected(PLAIN, &[]).text);
    assert_eq!(upgraded(PLAIN, &[]).objects[0].outcome, Outcome::Injected);
}

#[test]
fn upgrade_replaces_a_volume_that_differs() {
    let old = injected(PLAIN, &["--config-map", "old"]).text;
    let done = upgraded(&old, &["--config-map", "new"]);
    assert_eq!(done.text, injected(PLAIN, &["--config-map", "new"]).text);
    assert_eq!(done.objects[0].outcome, Outcome::Upgraded);
    assert_eq!(
        injected(&old, &["--config-map", "new"]).objects[0].outcome,
        Outcome::Different
    );
}

#[test]
fn upgrade_keeps_the_sidecar_of_a_pod_that_could_not_have_the_new_one() {
    let old = injected(PLAIN, &[]).text.replace(
        "\"name\": \"a\"",
        "\"name\": \"a\", \"ports\": [{\"containerPort\": 9191}]",
    );
    let more = &["--metrics-port", "9191"];
    let faults = done(&old, more, Task::Upgrade, Unfit::Fail).unwrap_err();
    assert!(faults.0[0].message.contains("9191"), "{faults}");
    let kept = done(&old, more, Task::Upgrade, Unfit::Keep).unwrap();
    let json = |text: &str| documents(text).remove(1);
    assert_eq!(json(&kept.text), json(&old));
    assert_eq!(kept.objects[0].outcome, Outcome::Upgraded);
}
