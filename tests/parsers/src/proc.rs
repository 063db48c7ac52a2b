//! Text files of `/proc/<pid>`. A program chooses its name, and who makes a control group its path.

use crate::parsers::text;

/// Nothing in them makes a parser fail in another way than by finding nothing.
pub fn feed(bytes: &[u8]) {
    let cgroup = text::unified_cgroup(bytes);
    assert!(cgroup.is_none_or(|path| path.as_os_str().len() < bytes.len()));
    assert_ne!(text::tracer(bytes), Some(0));
    let _ = (text::stack_limit(bytes), text::start_stack(bytes));
    assert!(text::environment(bytes).is_none_or(|range| range.start <= range.end));
    if let Some(path) = text::interpreter(bytes) {
        let path = path.as_os_str().as_encoded_bytes();
        assert!(bytes.starts_with(b"#!") && !path.is_empty() && path.len() <= bytes.len() - 2);
        assert!(!path.iter().any(|byte| b" \t\n\0".contains(byte)));
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
