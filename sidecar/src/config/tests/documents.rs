//! What is refused before anybody looks at keys: what is not one plain YAML document.

use super::{read, refuse, says};

#[test]
fn the_file_is_exactly_one_document() {
    says("", "1:1: the file is empty");
    says("# nothing\n", "1:1: the file is empty");
    says("---\n", "1:1: the file is empty");
    says("version: v1\n---\nversion: v1\n", "2:1: a second document");
    assert!(read("---\nversion: v1\n...\n").is_ok());
}

#[test]
fn a_file_that_is_not_yaml_says_where() {
    says(
        "version: v1\npolicy:\n\tmode: audit\n",
        "3:1: not valid YAML: a tab, which YAML does not take for indentation",
    );
    says(
        "version: v1\npolicy: {mode: audit\n",
        "2:9: not valid YAML: unclosed bracket '{'",
    );
    says(
        "version: v1\npolicy: \"audit\n",
        "2:9: not valid YAML: this quote is not closed on its line",
    );
    says(
        "%YAML 1.1\n---\nversion: v1\n",
        "1:1: not valid YAML: YAML directives are disallowed",
    );
}

#[test]
fn anchors_aliases_tags_and_merge_keys_are_refused() {
    let plain = "anchors, aliases and tags (`&`, `*`, `!`) are not supported";
    says("version: &v v1\n", &format!("1:10: {plain}"));
    says("version: *v\n", &format!("1:10: {plain}"));
    says("version: !!str v1\n", &format!("1:10: {plain}"));
    // What looks like one before it is none.
    says(
        "version: v1 # &a\npolicy: # !b\n  &c\n  mode: audit\n",
        &format!("3:3: {plain}"),
    );
    says(
        "version: v1\n<<: {}\n",
        "2:1: unknown key \"<<\" in the top level",
    );
    says("version: v1\n? [a]\n: b\n", "2:3: a key must be a word");
}

#[test]
fn deep_nesting_is_refused_without_a_crash() {
    for text in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        "? ".repeat(1000),
    ] {
        refuse(&text);
    }
}

#[test]
fn a_file_longer_than_one_mebibyte_is_refused() {
    let mut text = "version: v1\n#".to_owned();
    text.push_str(&"x".repeat(1024 * 1024 - text.len()));
    assert!(read(&text).is_ok());
    text.push('x');
    says(&text, "1:1: longer than 1048576 bytes");
}
