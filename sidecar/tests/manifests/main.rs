//! Manifests, judged strictly: those in `deploy/` and `deploy/examples/`, and what `kernelseal inject` makes of other
//! people's.

mod charts;
mod crds;
mod deploy;
mod strict;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// A folder of the repository.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// The YAML files in a folder, by name.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    files
}

/// The documents in a text that hold something.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|it| !it.is_null()).collect()
}

/// `kernelseal inject` on a file.
fn inject(file: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kernelseal"))
        .args([
            "inject",
            "--image",
            "registry.example/kernelseal:0.1.0",
            "-f",
        ])
        .arg(file)
        .args(more)
        .output()
        .unwrap()
}

/// What it wrote.
fn injected(file: &Path, more: &[&str]) -> String {
    let output = inject(file, more);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}
