//! The sidecar that is put in: what it is made of, and what options change of it.

use super::*;

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
