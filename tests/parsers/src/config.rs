//! A configuration file: the whole way of `kernelseal validate`.

use std::path::Path;

use crate::parsers::config::{Config, parse_bytes};

/// Bytes of a source line that an error may show besides what it says itself.
const MAX_ERROR: usize = 4096;

/// Either a configuration, which can be shown and is the same every time, or errors that say where.
pub fn feed(bytes: &[u8]) {
    let read = || parse_bytes(bytes, Path::new("config.yaml"));
    match read() {
        Ok(config) => {
            assert!(!format!("{config:?}").is_empty());
            assert!(read().is_ok_and(|again: Config| again == config));
        }
        Err(errors) => {
            for error in &errors {
                let text = error.to_string();
                assert!(
                    text.starts_with("config.yaml:") && text.len() < MAX_ERROR,
                    "{text}"
                );
                assert!(error.at.is_none_or(|at| at.line > 0 && at.column > 0));
            }
        }
    }
}
