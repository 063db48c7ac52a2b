//! What a configuration may say and this version cannot do. `run` refuses it, so that nobody takes
//! it for protection; `validate`, which knows the whole schema, tells it beforehand.

use crate::{
    config::{Config, Position, Source},
    secrets::SourceError,
};

/// Each place where it is said, and what to do instead.
pub(crate) fn find(config: &Config) -> Vec<(Position, String)> {
    let mut found = Vec::new();
    for binding in &config.secrets {
        for secret in &binding.secret_refs {
            if let Source::VaultRef(_) = secret.source {
                found.push((secret.at, SourceError::Vault.to_string()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::{load, parse};

    /// What an example begins with that is not to be started.
    const SHOWCASE: &str = "# A showcase";

    #[test]
    fn everything_is_told_with_its_place() {
        let text = "version: v1
secrets:
  - name: a
    selector: {binary: a, uid: 1}
    secretRefs:
      - {name: X, source: {vaultRef: {path: secret/data/app, key: token}}}
  - name: b
    selector: {binary: b, uid: 1, cgroupPath: /b}
    secretRefs:
      - {name: X, source: {value: x}}
";
        let found = find(&parse(text, Path::new("config.yaml")).unwrap());
        let lines: Vec<_> = found.iter().map(|(at, _)| at.line).collect();
        assert_eq!(lines, [6], "{found:?}");
        assert!(found[0].1.contains("vaultRef"), "{found:?}");
    }

    #[test]
    fn an_example_can_run_or_says_at_its_top_that_it_cannot() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_showcase = fs::read_to_string(&path).unwrap().starts_with(SHOWCASE);
            let found = find(&load(&path).unwrap());
            assert_eq!(
                is_showcase,
                !found.is_empty(),
                "{}: {found:?}",
                path.display()
            );
        }
    }
}
