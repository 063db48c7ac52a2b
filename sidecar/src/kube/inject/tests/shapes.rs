//! Every kind and every style, down to the lines.

use super::*;

#[test]
fn lines_are_added_and_none_is_touched() {
    let after = injected(DEPLOYMENT, &[]).text;
    assert_kept(DEPLOYMENT, &after);
    let pod = "      shareProcessNamespace: true
      initContainers:
      - name: kernelseal
        image: registry.example/kernelseal:0.1.0
        restartPolicy: Always  # a native sidecar: up before the application, gone after it
";
    assert!(after.contains(pod), "{after}");
    let volumes = "      - name: scratch
        emptyDir: {}
      - name: kernelseal-config
        configMap: {name: kernelseal}
      - name: kernelseal-pod
        downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - name: kernelseal-bpf
        hostPath: {path: /sys/fs/bpf, type: Directory}

# What comes after.
";
    assert!(after.contains(volumes), "{after}");
    // The comment stays with what it is about.
    assert!(
        after.contains("      # The application.\n      containers:\n"),
        "{after}"
    );
}

#[test]
fn a_read_only_application_gets_a_place_for_secret_files_and_others_nothing() {
    let source = "apiVersion: v1
kind: Pod
spec:
  initContainers:
    - name: migrate
      image: a
      securityContext: {readOnlyRootFilesystem: true}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  containers:
    - name: open
      image: a
    - name: closed
      image: b
      securityContext:
        readOnlyRootFilesystem: true
    - name: has-one
      image: c
      securityContext: {readOnlyRootFilesystem: true}
      volumeMounts: [{name: own, mountPath: /run/kernelseal}]
";
    let after = injected(source, &[]).text;
    assert_kept(source, &after);
    let spec = &documents(&after)[0]["spec"];
    let names = |list: &str, index: usize| -> Vec<_> {
        let mounts = spec[list][index]["volumeMounts"].as_array();
        mounts
            .into_iter()
            .flatten()
            .map(|mount| mount["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(names("initContainers", 1), ["tmp", "kernelseal-run"]);
    assert!(names("containers", 0).is_empty());
    assert_eq!(names("containers", 1), ["kernelseal-run"]);
    assert_eq!(names("containers", 2), ["own"]);
    let run = spec["volumes"].as_array().unwrap().last().unwrap();
    assert_eq!(run["name"], "kernelseal-run");
    assert_eq!(run["emptyDir"]["medium"], "Memory");
    // First of the init containers, so that those after it find their secrets too.
    assert_eq!(spec["initContainers"][0]["name"], "kernelseal");
}

#[test]
fn keys_that_hold_nothing_are_filled() {
    let source = "apiVersion: v1
kind: Pod
spec:
  shareProcessNamespace:   # later
  initContainers: []  # none
  containers:
  -   name: a
      image: b
  volumes: null
";
    let after = injected(source, &[]).text;
    assert!(
        after.contains("  shareProcessNamespace: true   # later\n"),
        "{after}"
    );
    assert!(
        after.contains("  initContainers:  # none\n  - name: kernelseal\n"),
        "{after}"
    );
    assert!(
        after.contains("  volumes:\n  - name: kernelseal-config\n"),
        "{after}"
    );
}

#[test]
fn volumes_right_above_the_containers_stay_apart_from_what_is_put_there() {
    let source = "apiVersion: v1
kind: Pod
spec:
  volumes:
  - name: a
    emptyDir: {}
  containers:
  - name: a
    image: b
";
    let after = injected(source, &[]).text;
    let volumes = after.find("- name: kernelseal-config").unwrap();
    assert!(
        volumes < after.find("shareProcessNamespace").unwrap(),
        "{after}"
    );
    assert_kept(source, &after);
}

#[test]
fn json_stays_json() {
    let source = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
]}
"#;
    let after = injected(source, &[]).text;
    let json: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(
        json["items"][0]["spec"]["initContainers"][0]["name"],
        "kernelseal"
    );
    assert_eq!(injected(&after, &[]).text, after);
}

#[test]
fn what_has_no_pod_passes_untouched_byte_for_byte() {
    for source in [
        "",
        "# nothing\n",
        "---\n...\n",
        "apiVersion: v1\nkind: Secret\ndata: {a: b}",
        "apiVersion: example.org/v1\nkind: Deployment\nspec: &a {b: !odd c, d: *a2}\n"
            .replace("*a2", "x")
            .as_str(),
        "kind: {}\n",
        "- 1\n- a\n",
        "a: 1\r\nb: 2\r\n",
    ] {
        assert_eq!(injected(source, &[]).text, source);
    }
}

#[test]
fn line_breaks_and_a_missing_last_one_stay() {
    let source = "apiVersion: v1\r\nkind: Pod\r\nspec:\r\n  containers:\r\n  - name: a\r\n    image: b\r\n---\r\nkind: ConfigMap\r\ndata:\r\n  a: |\r\n    text";
    let after = injected(source, &[]).text;
    assert!(after.ends_with("    text"), "{after:?}");
    assert_eq!(after.matches('\n').count(), after.matches("\r\n").count());
    assert_kept(source, &after);
}

#[test]
fn anchors_elsewhere_in_the_pod_are_no_hindrance() {
    let source = "apiVersion: v1
kind: Pod
metadata: &meta
  labels: &labels {app: a}
  annotations: *labels
spec:
  containers:
    - &first
      name: a
      image: b
      securityContext: &ro {readOnlyRootFilesystem: true}
    - name: c
      securityContext: *ro
      image: !!str b
";
    let after = injected(source, &[]).text;
    assert_kept(source, &after);
    let spec = &documents(&after)[0]["spec"];
    assert_eq!(
        spec["containers"][1]["volumeMounts"][0]["name"],
        "kernelseal-run"
    );
    assert_eq!(injected(&after, &[]).text, after);
}
