//! The threat model claims nothing that no test shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Fewer rows are not a threat model.
const ROWS: usize = 60;
/// What a row may say of itself; the second half needs no test.
const CLAIMS: [&str; 3] = ["blocked", "refused", "harmless"];
const NO_CLAIMS: [&str; 2] = ["open", "out of reach"];

struct Row {
    number: usize,
    way: String,
    verdict: String,
    shown_by: Vec<String>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rows() -> Vec<Row> {
    read("docs/threat-model.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let number = cells.get(1)?.parse().ok()?;
            let [_, _, way, _, verdict, shown_by, _] = cells[..] else {
                panic!("row {number} has not five columns: {line}");
            };
            let shown_by = shown_by
                .split(", ")
                .map(|name| name.trim_matches('`').to_owned());
            Some(Row {
                number,
                way: way.to_owned(),
                verdict: verdict.to_owned(),
                shown_by: shown_by.filter(|name| !name.is_empty()).collect(),
            })
        })
        .collect()
}

/// The names of all tests of the suite, as the suite itself lists them.
fn tests() -> BTreeSet<String> {
    let listed = Command::new(env!("CARGO_BIN_EXE_suite"))
        .arg("--list")
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

#[test]
fn rows_are_numbered_and_each_is_about_another_way() {
    let rows = rows();
    assert!(rows.len() >= ROWS, "only {} rows", rows.len());
    let numbers: Vec<usize> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=rows.len()).collect::<Vec<_>>());
    let ways: BTreeSet<&str> = rows.iter().map(|row| row.way.as_str()).collect();
    assert_eq!(ways.len(), rows.len());
}

#[test]
fn what_is_claimed_is_shown() {
    for row in rows() {
        let claims = CLAIMS.contains(&row.verdict.as_str());
        assert!(
            claims || NO_CLAIMS.contains(&row.verdict.as_str()),
            "row {}: unknown verdict {}",
            row.number,
            row.verdict
        );
        assert!(
            !claims || !row.shown_by.is_empty(),
            "row {} names no test",
            row.number
        );
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let (tests, ways) = (tests(), read("tests/integration/fixtures/attack.c"));
    assert!(
        tests.len() > 100,
        "the suite lists only {} tests",
        tests.len()
    );
    for row in rows() {
        for name in row.shown_by {
            let exists = match name
                .strip_prefix("attack(")
                .and_then(|way| way.strip_suffix(')'))
            {
                Some(way) => ways.contains(&format!("\"{way}\"")),
                None => tests.contains(&name),
            };
            assert!(exists, "row {}: there is no {name}", row.number);
        }
    }
}

/// The numbers of rows that a text names: `1, 2, 11–13`.
fn numbers(text: &str) -> Vec<usize> {
    text.split(", ")
        .flat_map(|part| {
            let (from, to) = part.split_once('–').unwrap_or((part, part));
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text} of {part}"));
            number(from)..=number(to)
        })
        .collect()
}

#[test]
fn the_promises_are_those_of_the_table() {
    let security = read("SECURITY.md");
    let promised: BTreeSet<usize> = security
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let rows = *cells.get(4)?;
            rows.starts_with(|c: char| c.is_ascii_digit())
                .then(|| numbers(rows))
        })
        .flatten()
        .collect();
    let gaps: BTreeSet<usize> = security
        .lines()
        .filter_map(|line| Some(line.strip_prefix("- [")?.split_once("] ")?.0))
        .flat_map(numbers)
        .collect();
    let of = |verdicts: &[&str]| -> BTreeSet<usize> {
        let rows = rows().into_iter();
        rows.filter(|row| verdicts.contains(&row.verdict.as_str()))
            .map(|row| row.number)
            .collect()
    };
    assert_eq!(promised, of(&["blocked", "refused"]));
    assert_eq!(gaps, of(&["open"]));
}
