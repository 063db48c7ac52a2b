//! The definition of our kind, as `kernelseal crd` prints it: a text, with what the code knows filled in.

use sidecar_common::syscall::MAX_UIDS;

use crate::config::calls::{self, Category};

/// The text.
static TEMPLATE: &str = include_str!("definition.yaml");
/// Columns of a line of names.
const WIDTH: usize = 118;
/// What the lines of a list of names begin with.
const INDENT: &str = "                      ";

/// The `CustomResourceDefinition`, as YAML.
pub(crate) fn definition() -> String {
    TEMPLATE
        .replace("@CATEGORIES@", &list(Category::ALL.map(|(name, _)| name)))
        .replace("@NAMES@", &list(calls::names()))
        .replace("@MAX_UIDS@", &MAX_UIDS.to_string())
}

/// A YAML list of words, broken into lines.
fn list(words: impl IntoIterator<Item = &'static str>) -> String {
    let mut lines = vec![String::from(INDENT)];
    for word in words {
        if lines
            .last()
            .is_some_and(|line| line.len() + word.len() + 2 > WIDTH)
        {
            lines.push(String::from(INDENT));
        }
        if let Some(line) = lines.last_mut() {
            if line != INDENT {
                line.push(' ');
            }
            line.push_str(word);
            line.push(',');
        }
    }
    format!("[\n{}\n{}]", lines.join("\n"), &INDENT[2..])
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Where the definition lies for those who have no agent at hand.
    const COPIES: [&str; 2] = ["crd.yaml", "helm/crds/syscallmonitors.yaml"];

    #[test]
    fn the_definition_in_deploy_is_current() {
        for copy in COPIES {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../deploy")
                .join(copy);
            if std::env::var_os("UPDATE_CRD").is_some() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, definition()).unwrap();
            }
            let written = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == definition(),
                "deploy/{copy} is out of date; run: UPDATE_CRD=1 cargo test the_definition_in_deploy_is_current"
            );
        }
    }

    #[test]
    fn every_call_and_category_is_allowed_and_nothing_is_left_to_fill_in() {
        let text = definition();
        assert!(!text.contains(": @"), "{text}");
        let definition: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let allowed = |key: &str| {
            let words = &definition.pointer(spec).unwrap()[key]["items"]["enum"];
            let words = words.as_array().unwrap().iter();
            words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(allowed("names"), calls::names().collect::<Vec<_>>());
        assert_eq!(allowed("categories"), Category::ALL.map(|(name, _)| name));
    }
}
