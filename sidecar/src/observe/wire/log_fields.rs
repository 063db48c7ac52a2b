//! The names of fields in log lines, as the source has them.

use std::{collections::BTreeSet, fs, path::Path};

use super::assert_unchanged;

/// Every source file below a folder.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// What stands before the message of a log line: `pid = held.pid, process = %name,`, each by its name.
fn log_fields(source: &str) -> impl Iterator<Item = String> {
    let levels = ["error", "warn", "info", "debug", "trace"];
    let calls = levels.map(|level| format!("tracing::{level}!("));
    let found: Vec<&str> = calls
        .iter()
        .flat_map(|call| source.split(call.as_str()).skip(1))
        .collect();
    let fields: Vec<String> = found
        .into_iter()
        .filter_map(|rest| rest.split('"').next())
        .flat_map(|before| before.split(','))
        .map(|field| field.split('=').next().unwrap_or_default())
        .map(|name| name.trim().trim_start_matches(['%', '?']).to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    fields.into_iter()
}

#[test]
fn names_of_log_fields_are_as_they_were() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let names: BTreeSet<String> = all.iter().flat_map(|source| log_fields(source)).collect();
    assert!(names.contains("pid"), "{names:?}");
    let mut found = Vec::from_iter(names).join("\n");
    found.push('\n');
    assert_unchanged("log-fields.txt", &found);
}

#[test]
fn log_fields_of_a_line_are_those_before_its_message() {
    // (by halves, or it would be found in this file)
    let source = ["tracing::", "info!(pid, name = %who, \"{a}, b = c\", x)"].concat();
    assert!(log_fields(&source).eq(["pid", "name"]));
}
