//! What each command exits with. Scripts and manifests go by these: a change is one for CHANGELOG.md.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// What was asked for was done.
const DONE: i32 = 0;
/// It was not, for a reason that is on stderr.
const FAILED: i32 = 1;
/// The command line is not one (clap's own).
const USAGE: i32 = 2;
/// Nothing was injected, or taken away.
const NOTHING_CHANGED: i32 = 3;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: shop}\nspec: {containers: [{name: app, image: shop:1}]}\n";
const NO_POD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n";

fn exit_code(folder: &Path, arguments: &str, stdin: &str) -> Option<i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Who reads no standard input may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait().unwrap().code()
}

#[test]
fn exit_codes_of_every_command_are_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("good.yaml", "version: v1\n"),
        ("bad.yaml", "version: v1\nsecret: []\n"),
        ("pod.yaml", POD),
        ("no-pod.yaml", NO_POD),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let cases = [
        ("--help", "", DONE),
        ("--version", "", DONE),
        ("", "", USAGE),
        ("frobnicate", "", USAGE),
        ("run --config", "", USAGE),
        ("run --config nowhere.yaml", "", FAILED),
        ("run --config bad.yaml", "", FAILED),
        ("validate good.yaml", "", DONE),
        ("validate bad.yaml", "", FAILED),
        ("validate good.yaml bad.yaml", "", FAILED),
        ("validate -", "version: v1\n", DONE),
        ("inject -f pod.yaml", "", DONE),
        ("inject -f -", POD, DONE),
        ("inject -f no-pod.yaml", "", NOTHING_CHANGED),
        ("inject --allow-none -f no-pod.yaml", "", DONE),
        ("inject -f nowhere.yaml", "", FAILED),
        ("uninject -f pod.yaml", "", NOTHING_CHANGED),
        ("uninject -f nowhere.yaml", "", FAILED),
        ("webhook", "", USAGE),
        ("top", "", DONE),
        ("schema", "", DONE),
        ("crd", "", DONE),
    ];
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(arguments, stdin, wanted)| {
            let found = exit_code(folder.path(), arguments, stdin);
            (found != Some(*wanted))
                .then(|| format!("kernelseal {arguments}: {found:?}, not {wanted}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
