//! How an error looks, letter for letter.

use std::{fs, path::Path};

use super::{
    super::{load, parse},
    binding, read, refuse,
};

#[test]
fn an_error_looks_like_a_compilers() {
    let rendered = refuse("version: v1\n\npolicy:\n  mode: enforce\n  blockEnvrion: true\n");
    let expected = "\
config.yaml:5:3: unknown key \"blockEnvrion\" in policy; did you mean \"blockEnviron\"?
 5 |   blockEnvrion: true
   |   ^^^^^^^^^^^^
   = help: keys here: mode, blockEnviron, blockMem, blockMaps, blockPtrace, allowSelfRead, auditAll, kernelBinaryFilter, onFailure, holdTimeout";
    assert_eq!(rendered, expected);
}

#[test]
fn all_errors_are_listed_in_the_order_of_the_file() {
    let rendered = refuse("version: v3\npolicy:\n  mode: audti\nsecretsDir: etc\n");
    let expected = "\
config.yaml:1:10: version \"v3\" is not known
 1 | version: v3
   |          ^^
   = help: write `version: v1`
config.yaml:3:9: mode cannot be \"audti\"; did you mean \"audit\"?
 3 |   mode: audti
   |         ^^^^^
   = help: write one of: disabled, audit, enforce
config.yaml:4:13: secretsDir is not an absolute path
 4 | secretsDir: etc
   |             ^^^
   = help: write the path in full, from `/`";
    assert_eq!(rendered, expected);
}

#[test]
fn an_error_carries_its_parts_as_fields() {
    let errors = read("version: v1\npolicy: {mode: enforced}\n").unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(error.file, Path::new("config.yaml"));
    assert_eq!((error.line(), error.column()), (Some(2), Some(16)));
    assert_eq!(
        error.message,
        "mode cannot be \"enforced\"; did you mean \"enforce\"?"
    );
    assert_eq!(
        error.hint.as_deref(),
        Some("write one of: disabled, audit, enforce")
    );
}

#[test]
fn the_file_is_named_as_it_was_given() {
    let errors = parse("version: v2", Path::new("/etc/kernelseal/other.yaml")).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("/etc/kernelseal/other.yaml:1:10: ")
    );
}

#[test]
fn columns_count_characters_and_the_caret_stands_below_them() {
    let rendered =
        refuse("version: v1\nsecrets: [{name: \"äöü\", selector: {binary: x}, secretRefs: []}]\n");
    assert!(
        rendered.starts_with("config.yaml:2:60: secretRefs is empty\n"),
        "{rendered}"
    );
    let lines: Vec<&str> = rendered.lines().collect();
    let caret = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().nth(caret), Some('['), "{rendered}");
}

#[test]
fn line_ends_of_any_kind_count_once() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("version: v1{end}policy:{end}  mode: x{end}  auditAll: false{end}");
        let rendered = refuse(&text);
        assert!(rendered.starts_with("config.yaml:3:9: "), "{rendered}");
        assert!(
            rendered.contains("\n 3 |   mode: x\n   |         ^\n"),
            "{rendered:?}"
        );
    }
}

#[test]
fn a_byte_order_mark_moves_nothing() {
    let rendered = refuse("\u{feff}version: v2\n");
    assert!(rendered.contains("config.yaml:1:10: "), "{rendered}");
    assert!(
        rendered.contains("\n 1 | version: v2\n   |          ^^\n"),
        "{rendered}"
    );
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let rendered = refuse("version: v1\n\"a\\e[31m\\u202e\": 1\nb\u{202e}: 2\n");
    assert!(
        rendered.chars().all(|c| c == '\n' || !c.is_control()),
        "{rendered:?}"
    );
    assert!(!rendered.contains('\u{202e}'), "{rendered:?}");
}

#[test]
fn long_lines_and_words_are_cut() {
    let text = format!("version: v1\npolicy: {{mode: {}}}\n", "x".repeat(100_000));
    assert!(refuse(&text).len() < 1000);
    let text = format!("version: v1\n{}: 1\n", "x".repeat(1000));
    assert!(refuse(&text).len() < 1000);
}

#[test]
fn endless_errors_are_cut() {
    let text = binding("binary: a", "x\n").replace("- x", &"- {}\n      ".repeat(10_000));
    assert_eq!(read(&text).unwrap_err().iter().count(), 50);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let rendered = load(Path::new("/nonexistent/config.yaml"))
        .unwrap_err()
        .to_string();
    assert!(
        rendered
            .starts_with("/nonexistent/config.yaml: cannot read the configuration: No such file"),
        "{rendered}"
    );
}

#[test]
fn a_file_that_is_not_utf_8_says_where() {
    let path = std::env::temp_dir().join(format!("kernelseal-utf8-{}.yaml", std::process::id()));
    fs::write(&path, b"version: v1\n# \xff\n").unwrap();
    let rendered = load(&path).unwrap_err().to_string();
    fs::remove_file(&path).unwrap();
    assert!(
        rendered.contains(".yaml:2:3: not UTF-8 text\n"),
        "{rendered}"
    );
}
