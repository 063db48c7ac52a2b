//! Which content a file has, told without reading it.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::fstatfs;

use super::{FileId, kernel_dev};

/// Two changes of a file within this time may have the same timestamps. Linux's own clock for timestamps ticks every hundredth of a
/// second, a network file system's server may count whole seconds.
const A_MOMENT: Duration = Duration::from_secs(2);
/// Magic numbers (`linux/magic.h`) of ext4, xfs, btrfs, erofs, squashfs: their timestamps tell every change. They record a change by
/// write(2) and by a mapping (tmpfs does not record the latter), and the local kernel alone changes their content (unlike FUSE,
/// network file systems, and the layers of an overlay).
const TELLING: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xe0f5_e1e2, 0x7371_7368];

/// A file as it is now: changed, it has other times. Nobody sets the time of the last change (ctime).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    file: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            file: FileId {
                dev: kernel_dev(found.dev()),
                ino: found.ino(),
            },
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a change from now on has another time.
    pub(super) fn is_old(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let changed = Duration::from_secs(self.changed.0.max(0).unsigned_abs());
        now.is_ok_and(|now| now.saturating_sub(changed) > A_MOMENT)
    }
}

/// Whether every change of this file has a time.
pub(super) fn is_told_of_changes(file: &File) -> io::Result<bool> {
    let magic = fstatfs(file)?.f_type;
    Ok(u64::try_from(magic).is_ok_and(|magic| TELLING.contains(&magic)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn another_content_is_another_version() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one").unwrap();
        let before = Version::of(&file.metadata().unwrap());
        assert_eq!(before, Version::of(&file.metadata().unwrap()));
        // of this moment: the next change may have its time
        assert!(!before.is_old());
        std::thread::sleep(Duration::from_millis(50));
        file.write_all(b"two").unwrap();
        assert_ne!(before, Version::of(&file.metadata().unwrap()));
        let old = Version {
            changed: (1, 0),
            ..before
        };
        assert!(old.is_old());
        let to_come = Version {
            changed: (i64::MAX, 0),
            ..before
        };
        assert!(!to_come.is_old());
    }
}
