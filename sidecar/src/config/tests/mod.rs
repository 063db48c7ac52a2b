//! Tests of the configuration by what a user sees.

mod documents;
mod examples;
mod leaks;
mod model;
mod network;
mod properties;
mod rejects;
mod rendering;
mod semantics;
mod syscalls;
mod vault;

use std::path::{Path, PathBuf};

use super::{Config, ConfigErrors, parse};

/// A folder of the repository: beside this crate or one floor up, where the workspace is.
fn folder(name: &str) -> PathBuf {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let up = krate.join("..").join(name);
    if krate.join(name).is_dir() {
        krate.join(name)
    } else {
        up
    }
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    parse(text, Path::new("config.yaml"))
}

#[track_caller]
fn accept(text: &str) -> Config {
    read(text).unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}

/// The rendered errors of a text that must not be accepted.
#[track_caller]
fn refuse(text: &str) -> String {
    match read(text) {
        Ok(config) => panic!("accepted: {config:?}\nin\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

/// Asserts that a text is refused with a first line that ends like this.
#[track_caller]
fn says(text: &str, expected: &str) {
    let rendered = refuse(text);
    let first = rendered.lines().next().unwrap();
    assert_eq!(first, format!("config.yaml:{expected}"), "in\n{text}");
}

/// A configuration with one binding, whose `selector` fields and secret are given.
fn binding(selector: &str, secret: &str) -> String {
    format!(
        "version: v1\nsecrets:\n  - name: app\n    selector: {{{selector}}}\n    secretRefs:\n      - {secret}\n"
    )
}

/// A configuration with one secret with this source.
fn source(source: &str) -> String {
    binding(
        "binary: app",
        &format!("{{name: TOKEN, source: {{{source}}}}}"),
    )
}

/// A configuration with one secret of this name, delivered in these ways.
fn secret_name(name: &str, delivery: &str) -> String {
    binding(
        "binary: app",
        &format!("{{name: {name}, source: {{envRef: X}}}}"),
    )
    .replace(
        "    secretRefs",
        &format!("    delivery: [{delivery}]\n    secretRefs"),
    )
}
