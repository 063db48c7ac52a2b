//! No message contains what may be a secret, wherever somebody put it.

use super::{binding, refuse, source};

const SECRET: &str = "hunter2";

#[track_caller]
fn silent(text: &str) -> String {
    let rendered = refuse(text);
    assert!(!rendered.contains(SECRET), "leaks:\n{rendered}\nin\n{text}");
    rendered
}

#[test]
fn a_wrong_value_is_reported_without_its_line() {
    let rendered = silent(&source("value: [hunter2]"));
    let expected = "\
config.yaml:6:39: value must be text, not a list
   = help: put it in quotes";
    assert_eq!(rendered, expected);
}

#[test]
fn values_of_the_wrong_type_are_not_shown() {
    for value in [
        "[hunter2]",
        "{hunter2: x}",
        "{hunter2}",
        "{a: {b: hunter2}}",
        "[[hunter2]]",
    ] {
        silent(&source(&format!("value: {value}")));
        silent(&source(&format!("value: {value}, envRef: X")));
    }
}

#[test]
fn block_values_of_the_wrong_type_are_not_shown() {
    for value in [
        "- hunter2",
        "hunter2: x",
        "hunter2:",
        "? hunter2",
        "a:\n              - hunter2",
    ] {
        let secret = format!("name: A\n        source:\n          value:\n            {value}");
        silent(&binding("binary: a", &secret));
    }
}

#[test]
fn a_line_with_a_value_key_is_not_shown_whatever_is_wrong_with_it() {
    for source_text in [
        "value: hunter2, envRef: A",
        "\"value\": hunter2, envRef: A",
        "'value' : hunter2, frob: A",
        "value: hunter2, value: hunter2",
        "\"val\\x75e\": hunter2, envRef: A",
        "? value\n : hunter2, envRef: A",
    ] {
        silent(&source(source_text));
    }
    silent(&source("value: hunter2").replace("name: TOKEN", "name: 1"));
    silent(
        &source("value: hunter2")
            .replace("binary: app", "binary: ''")
            .replace('\n', "\r\n"),
    );
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    for secret in [
        "{name: A, value: hunter2}",
        "{name: A, source: hunter2}",
        "{name: A, source: [hunter2]}",
        "{name: A, source: {hunter2}}",
        "{name: A, source: {vlaue: hunter2}}",
        "{name: A, source: {name: hunter2}}",
        "{name: A, source: {secretKeyRef: {name: a, path: hunter2}}}",
        "{name: A, namespace: hunter2}",
        "{name: A, source: {vlaue: hunter2, envRef: B, frob: C}}",
        "{name: A, source: {secretKeyRef: hunter2}}",
        "{name: A, source: {secretKeyRef: {hunter2}}}",
        "{name: A, source: {vaultRef: {token: hunter2}}}",
        "{name: A, source: {vaultRef: hunter2}}",
        "{name: A, source: {password: {x: [hunter2]}}}",
        "{name: A, password: hunter2, source: {envRef: X}, frob: 1}",
        "{PGPASSWORD: hunter2}",
        "{name: A-B, source: {}} # hunter2",
        "name: A-B\n        #hunter2\n        frob: #hunter2",
        "PGPASSWORD: hunter2",
        "hunter2",
        "\"hunter2\"",
        "|\n        hunter2",
        "name: A\n        source:\n          vlaue: |\n            x\n            hunter2\n          frob: 1",
        "name: A\n        source:\n          hunter2:",
        "name: A\n        source: hunter2",
        "name: A\n        source:\n          hunter2",
    ] {
        silent(&binding("binary: a", secret));
    }
    for text in [
        "version: v1\nsecrets: hunter2\n",
        "version: v1\nsecrets: {db: hunter2}\n",
        "version: v1\nsecrets: {db: {PGPASSWORD: hunter2}}\n",
        "version: v1\nsecrets:\n- hunter2\n",
        "version: v1\nsecrets:\n- name: a\n  secretRefs: hunter2\n",
        "version: v1\nsecrets:\n- name: a\n  secretRefs: {PGPASSWORD: hunter2}\n",
        "version: v1\npassword: hunter2\n",
        "hunter2\n",
        "- hunter2\n",
    ] {
        silent(text);
    }
}

#[test]
fn a_number_in_the_wrong_place_among_secrets_is_not_shown() {
    for secret in [
        "{name: A, source: {vlaue: 73194}}",
        "{PIN: 73194}",
        "73194",
        "{name: A, source: 73194}",
    ] {
        let rendered = refuse(&binding("binary: a", secret));
        assert!(!rendered.contains("73194"), "{rendered}");
    }
    assert!(!refuse(&source("value: 73194")).contains("73194"));
}

#[test]
fn an_unquoted_value_that_is_not_yaml_is_not_shown() {
    for value in [
        "*hunter2",
        "&hunter2",
        "!hunter2",
        "@hunter2",
        "%hunter2",
        "`hunter2",
        "&hunter2 x",
        "!hunter2 x",
        "!hunter2! x",
        "!<hunter2> x",
        "\"hunter2",
        "'hunter2",
        "\"hunter2\" x",
        "\"\\hunter2\"",
        "a: hunter2: b",
        "[hunter2",
        "{hunter2",
        "]hunter2",
        "|hunter2",
        ">9hunter2",
        "- hunter2",
        "hunter2: x",
        "hunter2\n     x: hunter2",
        "|\n            a\n          hunter2",
        "\"hunter2\n\"",
        "\"a\nhunter2\": x",
        "x\thunter2: [",
        "hunter2 #\n hunter2",
    ] {
        for quirk in ["", "\n---\nhunter2\n", "\n\t- hunter2"] {
            let secret = format!("name: A\n        source:\n          value: {value}{quirk}");
            if super::read(&binding("binary: a", &secret)).is_err() {
                silent(&binding("binary: a", &secret));
            }
        }
    }
}

#[test]
fn a_line_of_a_value_that_became_a_key_is_not_shown() {
    for indent in ["          ", "        ", "    ", "  ", ""] {
        let secret = format!("name: A\n        source:\n          value:\n{indent}hunter2: x");
        silent(&binding("binary: a", &secret));
        let secret = format!(
            "name: A\n        source:\n          value: |\n            a\n{indent}hunter2: x"
        );
        silent(&binding("binary: a", &secret));
    }
}

#[test]
fn harmless_lines_are_still_shown() {
    let rendered = refuse(&source("envRef: \"\""));
    assert!(rendered.contains("source: {envRef: \"\"}"), "{rendered}");
    let rendered = refuse("version: v1\nmonitoring:\n  lgLevel: info\n");
    assert!(
        rendered.contains("\n 3 |   lgLevel: …\n   |   ^^^^^^^\n"),
        "{rendered}"
    );
    let rendered = refuse("version: v1\npolicy: {mode: audit\nsecrets: []\n");
    assert!(rendered.contains("config.yaml:"), "{rendered}");
}

#[test]
fn the_arguments_of_a_command_line_as_binary_are_not_shown() {
    let secret = "{name: A, source: {envRef: X}}";
    for binary in ["app --password hunter2", "\"app\\thunter2\""] {
        let rendered = refuse(&binding(&format!("binary: {binary}"), secret));
        assert!(rendered.contains("binary has a blank"), "{rendered}");
        assert!(!rendered.contains("hunter2"), "{rendered}");
    }
}
