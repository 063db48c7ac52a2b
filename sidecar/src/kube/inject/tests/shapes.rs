//! Every kind and every style, down to the lines.

use super::*;

const DEPLOYMENT: &str = "\
# Checkout, the shop's heart.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: checkout   # two of them
spec:
  replicas: 2
  template:
    metadata:
      labels: {app: checkout}
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
apiVersion: v1
kind: Service
metadata: {name:   checkout}
";

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
fn the_sidecar_is_what_deploy_shows() {
    let after = documents(&injected(DEPLOYMENT, &["--mount-secret", "db-credentials"]).text);
    let sidecar = &after[0]["spec"]["template"]["spec"]["initContainers"][0];
    let example = documents(include_str!("../../../../../deploy/sidecar-pod.yaml"));
    let pod = &example[1]["spec"];
    let shown = &pod["initContainers"][0];
    for key in ["name", "image", "args", "restartPolicy", "resources"] {
        assert_eq!(sidecar[key], shown[key], "{key}");
    }
    let security = |key: &str| {
        (
            &sidecar["securityContext"][key],
            &shown["securityContext"][key],
        )
    };
    for key in [
        "capabilities",
        "appArmorProfile",
        "runAsUser",
        "readOnlyRootFilesystem",
    ] {
        let (own, shown) = security(key);
        assert_eq!(own, shown, "{key}");
    }
    assert_eq!(security("privileged").0, &Value::Null);
    assert_eq!(pod["shareProcessNamespace"], true);
    let paths = |container: &Value| -> Vec<_> {
        container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["mountPath"].clone())
            .collect()
    };
    assert_eq!(paths(sidecar), paths(shown));
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
fn an_older_cluster_gets_an_ordinary_container() {
    let options = ["--older-cluster"];
    for source in [
        "apiVersion: batch/v1
kind: Job
spec:
  template:
    spec:
      containers:
        - name: a
          image: b
",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec: {containers: [{name: a, image: b}]}\n",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations:\n    x: \"y\"\nspec:\n  containers:\n  - name: a\n    image: b\n",
    ] {
        let after = injected(source, &options).text;
        let document = &documents(&after)[0];
        let pod = document.pointer("/spec/template").unwrap_or(document);
        let sidecar = &pod["spec"]["containers"][0];
        assert_eq!(sidecar["name"], "kernelseal");
        assert!(
            sidecar["restartPolicy"].is_null()
                && sidecar["securityContext"]["appArmorProfile"].is_null()
        );
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(
            annotations["container.apparmor.security.beta.kubernetes.io/kernelseal"],
            "unconfined"
        );
        assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "a");
        assert_eq!(injected(&after, &options).text, after);
    }
}

#[test]
fn a_token_is_for_the_sidecar_alone() {
    const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let source = "apiVersion: v1
kind: Pod
spec:
  automountServiceAccountToken: false
  containers:
    - name: app
      image: a
";
    for more in [&["--api-token"][..], &["--api-token", "--older-cluster"]] {
        let done = injected(source, more);
        assert!(done.notes.is_empty(), "{:?}", done.notes);
        assert_kept(source, &done.text);
        let spec = &documents(&done.text)[0]["spec"];
        let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
        for container in lists.into_iter().flatten().flatten() {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let has_token = mounts
                .into_iter()
                .any(|mount| mount["mountPath"] == ACCOUNT && mount["name"] == "kernelseal-api");
            assert_eq!(has_token, container["name"] == "kernelseal", "{container}");
        }
        let volumes = spec["volumes"].as_array().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == "kernelseal-api");
        let sources = volume.unwrap()["projected"]["sources"].as_array().unwrap();
        let paths = [
            "/serviceAccountToken/path",
            "/configMap/items/0/path",
            "/downwardAPI/items/0/path",
        ];
        let paths: Vec<_> = sources
            .iter()
            .zip(paths)
            .map(|(source, path)| source.pointer(path).unwrap().as_str().unwrap())
            .collect();
        assert_eq!(paths, ["token", "ca.crt", "namespace"]);
        assert_eq!(injected(&done.text, more).text, done.text);
    }
    // Where all containers get one, that is said.
    let open = source.replace("  automountServiceAccountToken: false\n", "");
    let done = injected(&open, &["--api-token"]);
    assert!(
        done.notes[0].message.contains("every container"),
        "{}",
        done.notes[0]
    );
    assert!(injected(&open, &[]).notes.is_empty());
}

#[test]
fn the_options_arrive() {
    let more = [
        "--name",
        "seal",
        "--config-map",
        "shop",
        "--metrics-port",
        "9191",
        "--mount-secret",
        "a",
        "--mount-secret",
        "b.c",
    ];
    let after = injected(DEPLOYMENT, &more).text;
    let spec = &documents(&after)[0]["spec"]["template"]["spec"];
    let sidecar = &spec["initContainers"][0];
    assert_eq!(sidecar["name"], "seal");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["port"], 9191);
    assert_eq!(sidecar["ports"][0]["containerPort"], 9191);
    let volumes: Vec<_> = spec["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        volumes,
        [
            "scratch",
            "seal-config",
            "seal-pod",
            "seal-0",
            "seal-1",
            "seal-bpf"
        ]
    );
    assert_eq!(spec["volumes"][1]["configMap"]["name"], "shop");
    assert_eq!(spec["volumes"][4]["secret"]["secretName"], "b.c");
    // A pod's own word goes before.
    let own = DEPLOYMENT.replace(
        "labels: {app: checkout}",
        "annotations: {kernelseal.io/config-map: mine}",
    );
    let after = injected(&own, &more).text;
    assert_eq!(
        documents(&after)[0]["spec"]["template"]["spec"]["volumes"][1]["configMap"]["name"],
        "mine"
    );
}

#[test]
fn a_name_that_yaml_would_take_for_something_else_is_quoted() {
    for name in ["on", "1", "0x1f", "true", "null", "1e3", "12.5"] {
        let after = injected(DEPLOYMENT, &["--config-map", name]).text;
        assert_eq!(
            documents(&after)[0]["spec"]["template"]["spec"]["volumes"][1]["configMap"]["name"],
            name
        );
        assert!(
            after.contains(&format!("configMap: {{name: \"{name}\"}}")),
            "{name}"
        );
    }
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
