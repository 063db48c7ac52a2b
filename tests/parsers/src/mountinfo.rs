//! `mountinfo` of a process. Who mounts chooses the paths in it; the kernel writes a space in one as `\\040`.

use crate::parsers::{kubelet::Mounted, mountinfo::SecretMount};

/// Where secret directories are.
const PLACE: &str = "/run/kernelseal/secrets";

const PARTS: [&str; 3] = ["run", "kernelseal", "secrets"];

/// A line is a secret directory's, or not; a path that leads elsewhere is none, whatever the rest says.
pub fn feed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let Some(mount) = SecretMount::parse(line, PLACE) else {
            continue;
        };
        let parts: Vec<_> = mount
            .path
            .split('/')
            .filter(|part| !["", "."].contains(part))
            .collect();
        let (_, before) = parts.split_last().expect("a path of some parts");
        assert!(before.ends_with(&PARTS), "{line}");
        assert!(line.contains(&mount.path));
    }
    for mounted in Mounted::all(bytes) {
        assert!(mounted.is_beside(&mounted));
        let place = format!("/{}/containers/{}/", mounted.pod, mounted.name);
        assert!(text.contains(&place), "{place}");
    }
    // Whatever a path is, it moves no field of the line.
    let path: String = text
        .chars()
        .filter(|letter| !letter.is_whitespace() && *letter != '/')
        .collect();
    let line = format!("73 28 0:45 / {PLACE}/9{path} rw - tmpfs tmpfs rw");
    let mount = SecretMount::parse(&line, PLACE).expect("a secret directory");
    assert_eq!((mount.id, mount.dev), (73, 45));
}
