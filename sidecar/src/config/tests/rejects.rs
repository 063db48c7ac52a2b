//! What is refused because it is not the format: keys, types, values.

use super::{binding, read, refuse, says, source};

#[test]
fn an_unknown_key_names_the_nearest() {
    says(
        "version: v1\npolicy:\n  blockEnvrion: true\n",
        "3:3: unknown key \"blockEnvrion\" in policy; did you mean \"blockEnviron\"?",
    );
    says(
        "version: v1\npolicy:\n  block_environ: true\n",
        "3:3: unknown key \"block_environ\" in policy; did you mean \"blockEnviron\"?",
    );
    says(
        "version: v1\npolcy: {}\n",
        "2:1: unknown key \"polcy\" in the top level; did you mean \"policy\"?",
    );
    says(
        "version: v1\nfrobnicate: 1\n",
        "2:1: unknown key \"frobnicate\" in the top level",
    );
    says(
        "version: v1\nmonitoring: {network: {port: [1]}}\n",
        "2:24: unknown key \"port\" in network; did you mean \"ports\"?",
    );
    says(
        "version: v1\nmonitoring: {tracing: true}\n",
        "2:14: unknown key \"tracing\" in monitoring",
    );
}

#[test]
fn a_key_at_the_wrong_level_is_told_its_place() {
    says(
        "version: v1\nmode: enforce\n",
        "2:1: unknown key \"mode\" in the top level; it belongs under policy:",
    );
    says(
        "version: v1\nlogLevel: info\n",
        "2:1: unknown key \"logLevel\" in the top level; it belongs under monitoring:",
    );
    says(
        "version: v1\npolicy: {secretsDir: /x}\n",
        "2:10: unknown key \"secretsDir\" in policy; it belongs at the top level",
    );
    let text = binding("binary: app", "{name: A, source: {}, value: x}");
    assert!(
        refuse(&text).contains("unknown key \"value\" in secretRefs[]; it belongs under source:")
    );
    assert!(
        refuse(&source("key: x"))
            .contains("unknown key \"key\" in source; it belongs under secretKeyRef:")
    );
}

#[test]
fn a_key_given_twice_is_refused() {
    says(
        "version: v1\npolicy: {}\npolicy: {}\n",
        "3:1: key \"policy\" is given twice in the top level",
    );
    says(
        "version: v1\npolicy:\n  mode: audit\n  mode: enforce\n",
        "4:3: key \"mode\" is given twice in policy",
    );
    let thrice = refuse("version: v1\npolicy: {}\npolicy: {}\npolicy: {}\n");
    assert_eq!(thrice.matches("the first is at 2:1").count(), 2, "{thrice}");
    says(
        &binding(
            "binary: a, labels: {x: y, x: z}",
            "{name: A, source: {envRef: X}}",
        ),
        "4:42: label \"x\" is given twice in labels",
    );
    assert!(
        refuse(&source("value: a, value: b")).contains("key \"value\" is given twice in source")
    );
}

#[test]
fn version_must_be_there_and_v1() {
    says(
        "policy: {}\n",
        "1:1: the top level lacks the key \"version\"",
    );
    says("version: v2\n", "1:10: version \"v2\" is not known");
    says("version: 1\n", "1:10: version \"1\" is not known");
    says("version: [v1]\n", "1:10: version must be text, not a list");
}

#[test]
fn what_is_required_must_be_there() {
    says(
        "version: v1\nsecrets:\n  - name: a\n",
        "3:5: secrets[] lacks the key \"selector\"",
    );
    says(
        &binding("uid: 1", "{name: A, source: {envRef: X}}"),
        "4:15: selector lacks the key \"binary\"",
    );
    says(
        &binding("binary: a", "{source: {envRef: X}}"),
        "6:9: secretRefs[] lacks the key \"name\"",
    );
    says(
        &binding("binary: a", "{name: A}"),
        "6:9: secretRefs[] lacks the key \"source\"",
    );
    says(
        &source("secretKeyRef: {name: a}"),
        "6:46: secretKeyRef lacks the key \"key\"",
    );
    says(
        &source("vaultRef: {path: a}"),
        "6:42: vaultRef lacks the key \"key\"",
    );
    says(
        &source("fileRef: {trim: true}"),
        "6:41: fileRef lacks the key \"path\"",
    );
    says(&source(""), "6:31: source is empty");
}

#[test]
fn booleans_are_those_of_yaml_1_2() {
    for word in ["yes", "no", "on", "off", "y", "\"true\""] {
        let text = format!("version: v1\npolicy:\n  blockMem: {word}\n");
        says(&text, "3:13: blockMem must be a boolean, not text");
    }
    says(
        "version: v1\npolicy:\n  blockMem: 1\n",
        "3:13: blockMem must be a boolean, not a number",
    );
    says(
        "version: v1\npolicy:\n  blockMem:\n",
        "3:11: blockMem must be a boolean, not nothing",
    );
    says(
        "version: v1\npolicy:\n  blockMem: {a: b}\n",
        "3:13: blockMem must be a boolean, not a mapping",
    );
}

#[test]
fn wrong_types_are_refused() {
    says(
        "version: v1\npolicy: enforce\n",
        "2:9: policy must be a mapping, not text",
    );
    says(
        "version: v1\npolicy:\n",
        "2:7: policy must be a mapping, not nothing",
    );
    says(
        "version: v1\nsecrets: {}\n",
        "2:10: secrets must be a list, not a mapping",
    );
    says(
        "version: v1\nsecrets: [1]\n",
        "2:11: secrets[] must be a mapping, not a number",
    );
    says(
        "version: v1\nmonitoring: {auditLog: 5}\n",
        "2:24: auditLog must be text, not a number",
    );
    says(
        "version: v1\nmonitoring: {metricsPort: \"90\"}\n",
        "2:27: metricsPort must be a number, not text",
    );
    says(
        &binding("binary: 7", "{name: A, source: {envRef: X}}"),
        "4:24: binary must be text, not a number",
    );
    says(
        &source("value: 1234"),
        "6:39: value must be text, not a number",
    );
    says(
        &source("value: true"),
        "6:39: value must be text, not a boolean",
    );
    for nothing in ["value: null", "value: ~"] {
        says(&source(nothing), "6:39: value has nothing in it");
    }
    assert!(refuse(&source("value:")).contains("value has nothing in it"));
    says(
        &source("value: [a]"),
        "6:39: value must be text, not a list",
    );
    says(
        "- version: v1\n",
        "1:1: the top level must be a mapping, not a list",
    );
    says("v1\n", "1:1: the top level must be a mapping, not text");
}

#[test]
fn words_are_those_of_the_list() {
    let rendered = refuse("version: v1\npolicy:\n  mode: \"enforced\"\n");
    assert!(
        rendered.contains("3:9: mode cannot be \"enforced\"; did you mean \"enforce\"?"),
        "{rendered}"
    );
    assert!(
        rendered.contains("help: write one of: disabled, audit, enforce"),
        "{rendered}"
    );
    says(
        "version: v1\npolicy: {mode: Enforce}\n",
        "2:16: mode cannot be \"Enforce\"; did you mean \"enforce\"?",
    );
    says(
        "version: v1\npolicy: {onFailure: block}\n",
        "2:21: onFailure cannot be \"block\"",
    );
    says(
        "version: v1\nmonitoring: {logLevel: warning}\n",
        "2:24: logLevel cannot be \"warning\"",
    );
    says(
        "version: v1\nmonitoring: {logFormat: jsno}\n",
        "2:25: logFormat cannot be \"jsno\"; did you mean \"json\"?",
    );
}

#[test]
fn numbers_stay_in_range() {
    for port in [
        "65536",
        "-1",
        "1.5",
        "0x50",
        "0123",
        "1e3",
        "99999999999999999999",
    ] {
        let text = format!("version: v1\nmonitoring: {{metricsPort: {port}}}\n");
        says(&text, "2:27: metricsPort is out of range");
    }
    let text = binding(
        "binary: a, uid: 4294967296",
        "{name: A, source: {envRef: X}}",
    );
    says(&text, "4:32: uid is out of range");
    assert!(read("version: v1\nmonitoring: {metricsPort: 0}\n").is_ok());
}

#[test]
fn hold_timeout_is_a_duration_in_range() {
    for text in ["s", "-5s", "5 s", "1.5s", "\"\"", "99999999999999999999s"] {
        let text = format!("version: v1\npolicy: {{holdTimeout: {text}}}\n");
        says(&text, "2:23: holdTimeout is not a duration");
    }
    says(
        "version: v1\npolicy: {holdTimeout: 5}\n",
        "2:23: holdTimeout lacks its unit",
    );
    for text in [
        "99ms",
        "0s",
        "6m",
        "301s",
        "5h",
        "1d",
        "18446744073709551ms",
    ] {
        let text = format!("version: v1\npolicy: {{holdTimeout: {text}}}\n");
        says(
            &text,
            "2:23: holdTimeout is out of range: it is from 100ms to 5m",
        );
    }
}
