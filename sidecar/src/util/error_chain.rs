//! An error with its causes, as one line.

use std::error::Error;

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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Outer {
        what: &'static str,
        source: io::Error,
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
