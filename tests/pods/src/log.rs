//! A container's output, as the runtime keeps it for the kubelet.

use std::fs;
use std::path::Path;

/// What was printed to these streams, without what the runtime adds.
pub fn text(file: &Path, streams: &[&str]) -> String {
    let mut text = String::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        // The time, the stream, whether the line is whole, and the line.
        let mut parts = line.splitn(4, ' ').skip(1);
        let (stream, whole) = (parts.next(), parts.next());
        if stream.is_some_and(|stream| streams.contains(&stream)) {
            text += parts.next().unwrap_or_default();
            text += if whole == Some("F") { "\n" } else { "" };
        }
    }
    text
}
