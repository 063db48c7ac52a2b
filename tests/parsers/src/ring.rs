//! A record of the kernel side's.

use crate::parsers::ring::Record;

/// It is one of the kinds, or unknown; never more than was there.
pub fn feed(bytes: &[u8]) {
    let record = Record::parse(bytes);
    assert!(!format!("{record:?}").is_empty());
    if bytes.len() < size_of::<sidecar_common::event::Header>() {
        assert!(matches!(record, Record::Unknown));
    }
}
