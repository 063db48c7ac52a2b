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
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        let is_whole = fields.next()? == "/";
        let path = fields.next()?;
        // (a program with a root of its own has them below that)
        let place = place.trim_start_matches('/');
        (is_whole && Path::new(path).parent()?.ends_with(place)).then(|| Self {
            id,
            dev: (major << 20) | minor,
            path: path.to_owned(),
        })
    }
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
}
