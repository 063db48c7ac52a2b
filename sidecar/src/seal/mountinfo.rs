//! Lines of `/proc/<pid>/mountinfo`: which mounts are secret directories. Who mounts chooses the paths in them.

use std::path::Path;

/// A mount that is a secret directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SecretMount {
    /// Tells mounts apart, in all namespaces.
    pub(crate) id: u64,
    /// Device number, in the kernel's encoding.
    pub(crate) dev: u32,
    /// As the process sees it from its root.
    pub(crate) path: String,
}

impl SecretMount {
    /// `id parent major:minor root path …` (`proc_pid_mountinfo(5)`); `None` for any mount that is not right below
    /// `place`.
    pub(crate) fn parse(line: &str, place: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let dev = device(fields.nth(1)?)?;
        let is_whole = fields.next()? == "/";
        let path = fields.next()?;
        // (a program with a root of its own has them below that)
        let place = place.trim_start_matches('/');
        (is_whole && Path::new(path).parent()?.ends_with(place)).then(|| Self {
            id,
            dev,
            path: path.to_owned(),
        })
    }
}

/// The device number and the path of a mount that is a whole file system's.
pub(crate) fn whole(line: &str) -> Option<(u32, String)> {
    let mut fields = line.split(' ');
    let dev = device(fields.nth(2)?)?;
    let is_whole = fields.next()? == "/";
    let path = fields.next()?;
    is_whole.then(|| (dev, unescaped(path)))
}

fn device(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some((major << 20) | minor)
}

/// A path as it is: the kernel writes some characters as three octal digits.
pub(crate) fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        if let Some(code) = code.filter(u8::is_ascii) {
            whole.push(char::from(code));
            whole.push_str(&part[3..]);
        } else {
            whole.push('\\');
            whole.push_str(part);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_directories_are_told_from_other_mounts() {
        let parse = |line| SecretMount::parse(line, "/run/kernelseal/secrets");
        let line = "73 28 0:45 / /srv/run/kernelseal/secrets/9-2 rw,nosuid - tmpfs tmpfs rw";
        assert_eq!(
            parse(line),
            Some(SecretMount {
                id: 73,
                dev: 45,
                path: "/srv/run/kernelseal/secrets/9-2".into()
            })
        );
        for other in [
            "73 28 0:45 / /run/kernelseal rw - tmpfs tmpfs rw",
            "73 28 0:45 / /run/kernelseal/secrets rw - tmpfs tmpfs rw",
            "73 28 0:45 / /run/kernelseal/secrets/9/below rw - tmpfs tmpfs rw",
            "73 28 0:45 /part /run/kernelseal/secrets/9 rw - tmpfs tmpfs rw",
            "73 28 0:45 / /myrun/kernelseal/secrets/9 rw - tmpfs tmpfs rw",
            "73 28",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_is_as_it_is_called() {
        let line = "73 28 1:2 / /srv/a\\040b\\134c/run rw - tmpfs tmpfs rw";
        assert_eq!(whole(line), Some((1 << 20 | 2, "/srv/a b\\c/run".into())));
        assert_eq!(whole("73 28 1:2 /part /srv rw - tmpfs tmpfs rw"), None);
        assert_eq!(unescaped("/a\\0"), "/a\\0");
        assert_eq!(unescaped("/a\\9xy\\"), "/a\\9xy\\");
    }
}
