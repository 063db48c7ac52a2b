//! What is well-formed and still refused: names, paths and bindings that contradict each other.

use crate::config::{OnRotate, RotateSignal};

use super::{accept, binding, refuse, secret_name, source};

const SECRET: &str = "{name: A, source: {envRef: X}}";

#[track_caller]
fn refused(text: &str, because: &str) {
    let rendered = refuse(text);
    assert!(rendered.contains(because), "{rendered}\nin\n{text}");
}

/// Two bindings on these selectors, which give TOKEN different values.
fn two(first: &str, second: &str) -> String {
    let secret = |path| format!("secretRefs: [{{name: TOKEN, source: {{fileRef: {path}}}}}]");
    format!(
        "version: v1\nsecrets:\n- name: a\n  selector: {{{first}}}\n  {}\n- name: b\n  selector: {{{second}}}\n  {}\n",
        secret("/one"),
        secret("/two"),
    )
}

#[test]
fn names_in_the_environment_are_legal_variables() {
    for name in ["A", "_a", "PGPASSWORD", "x9"] {
        accept(&secret_name(name, "env"));
    }
    for name in ["9x", "A-B", "a.b", "\"A B\"", "\"A=B\"", "ä", "a/b"] {
        refused(
            &secret_name(name, "env"),
            "is not a legal name for an environment variable",
        );
        refused(
            &secret_name(name, "env, file"),
            "is not a legal name for an environment variable",
        );
    }
    refused(&secret_name("\"\"", "env"), "name is empty");
}

#[test]
fn names_of_files_are_safe() {
    for name in ["tls.key", "A-B", "9x", "\"A B\"", ".hidden", "...", "ä"] {
        accept(&secret_name(name, "file"));
    }
    for name in [
        ".",
        "..",
        "a/b",
        "/etc/passwd",
        "\"a\\0b\"",
        "\"a\\nb\"",
        &"x".repeat(256),
    ] {
        refused(&secret_name(name, "file"), "is not a safe file name");
    }
    accept(&secret_name(&"x".repeat(255), "file"));
    refused(
        &secret_name(&"x".repeat(256), "env, file"),
        "is not a safe file name",
    );
}

#[test]
fn reserved_and_loader_names_are_refused() {
    for delivery in ["env", "file", "env, file"] {
        refused(
            &secret_name("KERNELSEAL_SECRETS_DIR", delivery),
            "\"KERNELSEAL_SECRETS_DIR\" is reserved",
        );
        refused(
            &secret_name("LD_PRELOAD", delivery),
            "\"LD_PRELOAD\" steers the dynamic loader",
        );
        refused(&secret_name("LD_", delivery), "steers the dynamic loader");
    }
}

#[test]
fn a_secret_file_has_an_owner_and_a_mode() {
    let text = binding("binary: app", "{name: A, source: {value: x}}");
    let with = |what: &str| {
        let file = format!("    file: {what}\n    secretRefs");
        text.replacen("    secretRefs", &file, 1)
    };
    let chosen = |what: &str| accept(&with(what)).secrets[0].file;
    assert_eq!(accept(&text).secrets[0].file.mode.bits(), 0o400);
    let file = chosen("{mode: \"0440\", uid: 101, gid: 0}");
    assert_eq!(
        (file.mode.bits(), file.uid, file.gid),
        (0o440, Some(101), Some(0))
    );
    assert_eq!(chosen("{uid: 7}").gid, None);
    refused(&with("{mode: \"0644\"}"), "mode cannot be \"0644\"");
    refused(&with("{mode: 0440}"), "mode");
    refused(&with("{uid: 4294967295}"), "uid is out of range");
    refused(&with("{owner: 7}"), "unknown key \"owner\"");
}

#[test]
fn on_rotate_is_a_word_or_a_signal() {
    let with = |what: &str| {
        let text = binding("binary: app", "{name: A, source: {value: x}}");
        text.replacen(
            "    secretRefs",
            &format!("    onRotate: {what}\n    secretRefs"),
            1,
        )
    };
    let chosen = |what: &str| accept(&with(what)).secrets[0].on_rotate;
    assert_eq!(chosen("none"), OnRotate::None);
    assert_eq!(chosen("restart"), OnRotate::Restart);
    assert_eq!(
        chosen("{signal: USR1}"),
        OnRotate::Signal(RotateSignal::Usr1)
    );
    refused(&with("reload"), "onRotate cannot be \"reload\"");
    refused(&with("{signal: KILL}"), "signal cannot be \"KILL\"");
    refused(&with("{}"), "signal");
    refused(&with("{signal: HUP, after: 1}"), "unknown key \"after\"");
}

#[test]
fn delivery_is_env_file_or_both() {
    refused(&secret_name("A", ""), "delivery is empty");
    refused(
        &secret_name("A", "files"),
        "delivery cannot be \"files\"; did you mean \"file\"?",
    );
    refused(
        &secret_name("A", "env, env"),
        "delivery lists \"env\" twice",
    );
    let config = accept(&secret_name("A", "file"));
    assert!(config.secrets[0].delivery.file && !config.secrets[0].delivery.env);
}

#[test]
fn binary_is_a_basename_or_an_absolute_path() {
    let long = "x".repeat(256);
    for good in [
        "postgres",
        "/usr/bin/postgres",
        &"x".repeat(255),
        "\"/usr/bin/[\"",
    ] {
        accept(&binding(&format!("binary: {good}"), SECRET));
    }
    for (bad, because) in [
        ("bin/app", "binary is a relative path"),
        ("./app", "binary is a relative path"),
        ("/", "binary is not a plain path"),
        ("/usr/../bin/app", "binary is not a plain path"),
        ("/usr//app", "binary is not a plain path"),
        ("/usr/bin/", "binary is not a plain path"),
        ("..", "binary is not the name of a file"),
        ("\"\"", "binary is empty"),
        ("python3*", "binary is a pattern"),
        ("/opt/*/bin/app", "binary is a pattern"),
        ("ap?", "binary is a pattern"),
        ("my app", "binary has a blank"),
        ("/usr/bin/app --port 80", "binary has a blank"),
        ("\"app\\t\"", "binary has a blank"),
        ("\"app \"", "binary has a blank"),
        ("\"a\\0b\"", "binary has a NUL byte"),
        (&long, "binary has a name longer than 255 bytes"),
        (
            &format!("/{long}"),
            "binary has a name longer than 255 bytes",
        ),
    ] {
        refused(&binding(&format!("binary: {bad}"), SECRET), because);
    }
}

#[test]
fn selector_fields_are_checked() {
    let digest = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let config = accept(&binding(&format!("binary: a, sha256: {digest}"), SECRET));
    assert_eq!(
        config.secrets[0].selector.sha256,
        Some(digest.to_lowercase())
    );
    for (bad, because) in [
        ("sha256: abc", "sha256 must be 64 hexadecimal digits"),
        (
            &format!("sha256: {}g", &digest[1..]),
            "sha256 must be 64 hexadecimal digits",
        ),
        (
            "cgroupPath: /",
            "cgroupPath cannot be \"/\", which every program is in",
        ),
        ("cgroupPath: a/b", "cgroupPath is not an absolute path"),
        ("cgroupPath: /a/../b", "cgroupPath is not a plain path"),
        ("cgroupPath: //", "cgroupPath is not a plain path"),
        (
            "namespace: Payments",
            "namespace is not a Kubernetes namespace",
        ),
        ("namespace: ../x", "namespace is not a Kubernetes namespace"),
        ("labels: [a]", "labels must be a mapping, not a list"),
        (
            "labels: {version: 1}",
            "label \"version\" must be text, not a number",
        ),
        ("uid: root", "uid must be a number, not text"),
        ("container: \"\"", "container is empty"),
    ] {
        refused(&binding(&format!("binary: a, {bad}"), SECRET), because);
    }
    accept(&binding("binary: a, labels: {empty: \"\"}", SECRET));
}

#[test]
fn sources_are_checked() {
    for (bad, because) in [
        (
            "envRef: A, fileRef: /p",
            "source must be exactly one of these, not fileRef and envRef",
        ),
        ("fileRef: p", "fileRef is not an absolute path"),
        ("fileRef: {path: ../p}", "path is not an absolute path"),
        (
            "fileRef: {path: /p, trim: yes}",
            "trim must be a boolean, not text",
        ),
        (
            "envRef: \"A=B\"",
            "envRef is not the name of an environment variable",
        ),
        ("envRef: \"\"", "envRef is empty"),
        (
            "secretKeyRef: {name: ../etc, key: k}",
            "name is not a Kubernetes name",
        ),
        (
            "secretKeyRef: {name: a, key: ..}",
            "key is not a key of a Kubernetes Secret",
        ),
        (
            "secretKeyRef: {name: a, key: a/b}",
            "key is not a key of a Kubernetes Secret",
        ),
        (
            "secretKeyRef: {name: a, key: k, namespace: a.b}",
            "namespace is not a Kubernetes namespace",
        ),
        (
            "secretKeyRef: db",
            "secretKeyRef must be a mapping, not text",
        ),
        ("value: \"a\\0b\"", "value has a NUL byte"),
    ] {
        refused(&source(bad), because);
    }
    refused(
        &binding("binary: a", "").replace("- \n", "[]\n"),
        "secretRefs is empty",
    );
}

#[test]
fn binding_names_are_unique() {
    let text = two("binary: x", "binary: y").replace("name: b", "name: a");
    let rendered = refuse(&text);
    assert!(
        rendered.contains("config.yaml:6:3: a second binding is named \"a\""),
        "{rendered}"
    );
    assert!(rendered.contains("help: the first is at 3:3"), "{rendered}");
}

#[test]
fn two_values_for_one_name_are_refused_naming_both_places() {
    let rendered = refuse(&two("binary: x", "binary: x"));
    let expected = "\
config.yaml:8:16: two values for one name: \"x\" also gets another value for \"TOKEN\"
 8 |   secretRefs: [{name: TOKEN, source: {fileRef: /two}}]
   |                ^
   = help: the other is at 5:16, in binding \"a\": remove one, rename one, or make the selectors exclude each other";
    assert_eq!(rendered, expected);
}

#[test]
fn two_values_are_refused_wherever_one_program_can_match_both() {
    for (first, second) in [
        ("binary: x", "binary: /usr/bin/x"),
        ("binary: x, uid: 1", "binary: x"),
        ("binary: x, uid: 1", "binary: x, namespace: n"),
        ("binary: x, labels: {a: b}", "binary: x, labels: {c: d}"),
        ("binary: x, cgroupPath: /a", "binary: x, cgroupPath: /a/b"),
    ] {
        refused(&two(first, second), "two values for one name");
        refused(&two(second, first), "two values for one name");
    }
}

#[test]
fn two_values_are_fine_where_no_program_matches_both() {
    for (first, second) in [
        ("binary: x", "binary: y"),
        ("binary: /bin/x", "binary: /usr/bin/x"),
        ("binary: x, uid: 1", "binary: x, uid: 2"),
        ("binary: x, namespace: a", "binary: x, namespace: b"),
        ("binary: x, container: a", "binary: x, container: b"),
        ("binary: x, labels: {a: b}", "binary: x, labels: {a: c}"),
        ("binary: x, cgroupPath: /a", "binary: x, cgroupPath: /ab"),
    ] {
        accept(&two(first, second));
    }
}

#[test]
fn the_same_value_twice_is_fine() {
    accept(&two("binary: x", "binary: x").replace("/two", "/one"));
    accept(
        &two("binary: x", "binary: x")
            .replace("fileRef: /two", "value: v")
            .replace("fileRef: /one", "value: v"),
    );
}

#[test]
fn two_values_in_one_binding_are_refused() {
    let text = binding("binary: a", &format!("{SECRET}\n      - {SECRET}"));
    accept(&text);
    let text = binding(
        "binary: a",
        &format!("{SECRET}\n      - {}", SECRET.replace('X', "Y")),
    );
    refused(&text, "config.yaml:7:9: two values for one name");
}

#[test]
fn a_thousand_bindings_are_enough() {
    let many = |count: usize| {
        let items: Vec<String> = (0..count)
            .map(|n| format!("- {{name: b{n}, selector: {{binary: x}}, secretRefs: [{SECRET}]}}\n"))
            .collect();
        format!("version: v1\nsecrets:\n{}", items.concat())
    };
    accept(&many(1000));
    refused(&many(1001), "config.yaml:1003:3: more than 1000 bindings");
}
