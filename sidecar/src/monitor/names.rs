//! What Unix sockets are called.

/// A name as people write it, of what a `struct sockaddr_un` has behind its family: a path, `@name` where it is of no file (with `@`
/// for zeros, as `/proc/net/unix` has it), or `unnamed`.
pub(super) fn unix_name(bytes: &[u8]) -> String {
    match bytes.split_first() {
        None => "unnamed".to_owned(),
        Some((0, _)) => String::from_utf8_lossy(bytes).replace('\0', "@"),
        Some(_) => {
            let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(path).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names() {
        assert_eq!(
            unix_name(b"/run/docker.sock\0left over"),
            "/run/docker.sock"
        );
        assert_eq!(unix_name(b"\0bus"), "@bus");
        assert_eq!(unix_name(b"\0bus\0\0"), "@bus@@");
        assert_eq!(unix_name(b"no\xff"), "no\u{fffd}");
        assert_eq!(unix_name(b""), "unnamed");
    }
}
