//! `inject` over the manifests of well-known projects: valid before and after, and a second run adds nothing.

use super::*;

/// 9090 is somebody's own in some.
const PORT: [&str; 2] = ["--metrics-port", "9191"];

fn charts() -> Vec<PathBuf> {
    let files = manifests(&folder("sidecar/tests/manifests/charts"));
    assert!(files.len() >= 5, "{files:?}");
    files
}

#[test]
fn inject_is_idempotent_and_its_result_valid() {
    for file in charts() {
        for more in [&PORT[..], &["--older-cluster", PORT[0], PORT[1]]] {
            let before = fs::read_to_string(&file).unwrap();
            let once = injected(&file, more);
            let copy = tempfile::NamedTempFile::new().unwrap();
            fs::write(&copy, &once).unwrap();
            assert_eq!(
                injected(copy.path(), more),
                once,
                "{}: a second run",
                file.display()
            );
            let back = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
                .args(["uninject", "-f"])
                .arg(copy.path())
                .output()
                .unwrap();
            assert_eq!(
                String::from_utf8(back.stdout).unwrap(),
                before,
                "{}: and back",
                file.display()
            );

            assert_eq!(documents(&before).len(), documents(&once).len());
            let mut sidecars = 0;
            for document in documents(&once) {
                assert_eq!(
                    strict::faults(&document),
                    Vec::<String>::new(),
                    "{}",
                    file.display()
                );
                let spec = &document["spec"]["template"]["spec"];
                if spec.is_object() {
                    sidecars += 1;
                    let list = if more.len() > 2 {
                        "containers"
                    } else {
                        "initContainers"
                    };
                    assert_eq!(spec[list][0]["name"], "kernelseal", "{}", file.display());
                    assert_eq!(spec["shareProcessNamespace"], true);
                }
            }
            assert!(sidecars > 0, "{}", file.display());
        }
    }
}

#[test]
fn no_line_of_theirs_is_lost_or_moved() {
    for file in charts() {
        let before = fs::read_to_string(&file).unwrap();
        let after = injected(&file, &PORT);
        let mut lines = after.lines();
        for line in before.lines() {
            assert!(
                lines.any(|other| other == line),
                "{}: {line:?}",
                file.display()
            );
        }
    }
}

#[test]
fn a_pod_that_cannot_have_it_fails_with_its_place_and_writes_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("exporter.yaml");
    fs::write(&file, "apiVersion: v1\nkind: Pod\nspec:\n  hostPID: true\n  containers:\n  - name: a\n    image: b\n").unwrap();
    let output = inject(&file, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with(&format!("{}:4:12: ", file.display())) && said.contains("help:"),
        "{said}"
    );

    // Nor does it pass silently as a pod that nothing can be done about.
    let left = inject(&file, &["--keep-going"]);
    assert_eq!(left.status.code(), Some(3));
    assert!(left.stdout.is_empty());

    let kept = inject(&file, &["--keep-going", "--allow-none"]);
    assert_eq!(
        String::from_utf8(kept.stdout).unwrap(),
        fs::read_to_string(&file).unwrap()
    );
    let said = String::from_utf8(kept.stderr).unwrap();
    assert!(said.contains("Pod: skipped: the pod lives in"), "{said}");
}
