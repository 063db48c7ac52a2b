//! An error with its causes, as one line.

use std::{error::Error, io};

/// Says an error and all its causes, from the outermost. A cause that was said already, as part of what it caused, is left out.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = next.source();
    }
    said
}

/// The system's error that an error is, or comes from.
pub(crate) fn io_cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Outer {
        what: &'static str,
        source: io::Error,
    }

    #[test]
    fn io_cause_is_found_below_and_at_the_top() {
        let is_other =
            |found: Option<&io::Error>| found.is_some_and(|e| e.kind() == io::ErrorKind::Other);
        assert!(is_other(io_cause(&outer("connecting failed"))));
        assert!(is_other(io_cause(&io::Error::other("no route to host"))));
        assert!(io_cause(&std::fmt::Error).is_none());
    }

    fn outer(what: &'static str) -> Outer {
        let source = io::Error::other("no route to host");
        Outer { what, source }
    }

    #[test]
    fn error_chain_says_each_cause_once() {
        assert_eq!(
            error_chain(&outer("connecting failed")),
            "connecting failed: no route to host"
        );
        assert_eq!(
            error_chain(&outer("connecting failed (no route to host)")),
            "connecting failed (no route to host)"
        );
    }
}
