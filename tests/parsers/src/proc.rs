//! Text files of `/proc/<pid>`. A program chooses its name, and who makes a control group its path.

use std::path::{Component, Path};

use crate::parsers::{cgroup::Cgroup, text};

/// Nothing in them makes a parser fail in another way than by finding nothing.
pub fn feed(bytes: &[u8]) {
    if let Some(cgroup) = Cgroup::parse(bytes) {
        assert!(cgroup.path.as_os_str().len() < bytes.len());
        let id = cgroup.container(Path::new("/")).map(|id| id.container);
        assert!(id.is_none_or(|id| id.len() == 64 && contains(bytes, id.as_bytes())));
        let absolute = cgroup.absolute(Path::new("/machine")).path;
        assert!(
            !absolute
                .components()
                .any(|part| part == Component::ParentDir)
                || !absolute.starts_with("/machine")
        );
    }
    let _ = (
        text::parent(bytes),
        text::labels(&String::from_utf8_lossy(bytes)),
    );
    assert_ne!(text::tracer(bytes), Some(0));
    let _ = (text::stack_limit(bytes), text::start_stack(bytes));
    assert!(text::environment(bytes).is_none_or(|range| range.start <= range.end));
    if let Some(found) = text::interpreter(bytes) {
        let path = found.path.as_os_str().as_encoded_bytes();
        assert!(bytes.starts_with(b"#!") && !path.is_empty() && path.len() <= bytes.len() - 2);
        assert!(!path.iter().any(|byte| b" \t\n\0".contains(byte)));
        let argument = found.argument.unwrap_or_else(|| b"-".to_vec());
        assert!(!b" \t".contains(&argument[0]));
        assert!(!argument.iter().any(|byte| b"\n\0".contains(byte)));
    }
    a_name_does_not_matter(bytes);
}

/// What a program calls itself moves no field of `stat`.
fn a_name_does_not_matter(name: &[u8]) {
    let fields =
        b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 140737488289000 0 0\n";
    let stat = [b"7 (", name, fields].concat();
    assert_eq!(text::start_stack(&stat), Some(140_737_488_289_000));
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
