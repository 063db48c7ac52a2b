//! Properties: whatever the text, no panic; whatever is wrong, no secret in the message.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};

use super::{
    super::{parse, parse_bytes},
    folder, read,
};

/// Does not occur in any message or example by itself.
const SECRET: &str = "Xq7Zw9Kd3";

/// A file that holds the secret in several ways.
fn valid() -> String {
    format!(
        "version: v1
policy:
  mode: enforce
  holdTimeout: 5s
secrets:
  - name: one
    selector: {{binary: app, uid: 5}}
    secretRefs:
      - name: PLAIN
        source:
          value: {SECRET}
      - {{name: FLOW, source: {{value: '{SECRET}'}}}}
      - name: BLOCK
        source:
          value: |
            first {SECRET}
            second {SECRET}
      - name: QUOTED
        source:
          \"value\": \"a
            {SECRET}
            b\"
      - name: FOLDED
        source:
          value:
            {SECRET}
            and {SECRET}
      - name: KEY
        source:
          secretKeyRef: {{name: a, key: b}}
monitoring:
  metricsPort: 0
"
    )
}

/// Panics only if there is a bug.
fn feed(bytes: &[u8]) {
    if let Err(errors) = parse_bytes(bytes, Path::new("config.yaml")) {
        assert!(!errors.to_string().is_empty());
    }
}

/// What a slip of the hand inserts.
fn slip() -> impl Strategy<Value = String> {
    let yaml = [
        "\n", " ", "  ", "\t", ":", ": ", "- ", "-", "\"", "'", "{", "}", "[", "]", ",", "#", " #",
        "|", ">", "&", "*", "!", "%", "@", "`", "?", "? ", "\\", "~", "\r", "\u{feff}", "\u{85}",
        "\u{2028}", "---", "...", "\n---\n", "value", "name", "x", "<<", "0", "ä",
    ];
    prop_oneof![
        4 => proptest::sample::select(yaml.to_vec()).prop_map(str::to_owned),
        1 => ".{0,3}",
    ]
}

/// Places in `text` outside every occurrence of the secret, where a slip may strike.
fn places(text: &str) -> Vec<usize> {
    let inside = |index: usize| {
        text.match_indices(SECRET)
            .any(|(start, word)| index > start && index < start + word.len())
    };
    (0..=text.len())
        .filter(|index| text.is_char_boundary(*index) && !inside(*index))
        .collect()
}

fn mutated() -> impl Strategy<Value = String> {
    let slips = proptest::collection::vec((any::<Index>(), 0usize..6, slip()), 1..4);
    slips.prop_map(|slips| {
        let mut text = valid();
        for (at, remove, insert) in slips {
            let start = *at.get(&places(&text));
            let end = (start..=text.len().min(start + remove))
                .rev()
                .find(|end| {
                    text.is_char_boundary(*end) && !text[start..*end].contains(char::is_uppercase)
                })
                .unwrap_or(start);
            text.replace_range(start..end, &insert);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        feed(text.as_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        feed(&bytes);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(parts in proptest::collection::vec(slip(), 0..60)) {
        feed(parts.concat().as_bytes());
    }

    #[test]
    fn no_slip_makes_a_message_contain_the_secret(text in mutated()) {
        if let Err(errors) = parse(&text, Path::new("config.yaml")) {
            let rendered = errors.to_string();
            prop_assert!(!rendered.contains(SECRET), "{rendered}\nin\n{text}");
            for error in &errors {
                let at = error.at.unwrap();
                prop_assert!(at.line >= 1 && at.column >= 1);
                prop_assert!(at.line <= text.split(['\n', '\r']).count() + 1);
            }
        } else {
            let shown = format!("{:?}", parse(&text, Path::new("config.yaml")));
            prop_assert!(!shown.contains(SECRET), "{shown}\nin\n{text}");
        }
    }

    #[test]
    fn any_value_survives_quoting(value in "[ -~äß→🔑\n\r\t]{0,40}") {
        let text = super::source(&format!("value: {}", serde_json::to_string(&value).unwrap()));
        let config = read(&text).unwrap();
        let super::super::Source::Value(read) = &config.secrets[0].secret_refs[0].source else { panic!() };
        prop_assert_eq!(secrecy::ExposeSecret::expose_secret(read), &value);
    }
}

#[test]
fn the_unharmed_file_is_legal() {
    super::accept(&valid());
}

#[test]
fn no_truncated_example_makes_it_panic() {
    for entry in fs::read_dir(folder("examples")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        (0..bytes.len()).for_each(|end| feed(&bytes[..end]));
    }
}
