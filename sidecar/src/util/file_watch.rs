//! Files that others write: has one another content by now?
//!
//! They are looked at from time to time. The kubelet swaps symbolic links, editors rename, volumes are mounted over each
//! other: what a path leads to in the end is the same question for all of them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior};

/// How often files are looked at. A change is taken up at the second look that finds it.
const LOOK: Duration = Duration::from_millis(500);

/// Fires at once, and then so often; not to make up for what was missed.
pub(crate) fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Files, looked at from time to time.
pub(crate) struct FileWatcher {
    files: Files,
    interval: Interval,
}

impl FileWatcher {
    /// These files, from now on.
    pub(crate) fn at(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            files: Files::at(paths),
            interval: interval(LOOK),
        }
    }

    /// Waits until one of them has another content.
    pub(crate) async fn change(&mut self) {
        loop {
            self.interval.tick().await;
            if self.files.have_changed() {
                return;
            }
        }
    }
}

/// Files, as they were when it was last said that they had changed.
#[derive(Debug, Default)]
struct Files {
    files: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    known: Fingerprint,
    /// As it was at the last look: where that is another, it may be written just now.
    seen: Fingerprint,
}

/// Tells contents of a file apart, unless somebody goes out of his way: device and inode, length, times of change.
/// All zeros is that of no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint([i128; 5]);

impl Fingerprint {
    fn of(path: &Path) -> Self {
        let Ok(found) = fs::metadata(path) else {
            return Self::default();
        };
        let time =
            |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self([
            found.dev().into(),
            found.ino().into(),
            found.len().into(),
            time(found.mtime(), found.mtime_nsec()),
            time(found.ctime(), found.ctime_nsec()),
        ])
    }
}

impl Files {
    /// These files, as they are now.
    fn at(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = paths.into_iter().map(|path| {
            let known = Fingerprint::of(&path);
            Watched {
                path,
                known,
                seen: known,
            }
        });
        Self {
            files: files.collect(),
        }
    }

    /// Whether one has changed and is as it was at the last look: nobody is at it any more.
    fn have_changed(&mut self) -> bool {
        let mut has_changed = false;
        for file in &mut self.files {
            let now = Fingerprint::of(&file.path);
            has_changed |= now != file.known && now == file.seen;
            if now == file.seen {
                file.known = now;
            }
            file.seen = now;
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_change_is_told_once_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let mut files = Files::at([path.clone()]);
        assert!(!files.have_changed());
        fs::write(&path, "three").unwrap();
        assert!(!files.have_changed());
        fs::write(&path, "forty-two").unwrap();
        assert!(!files.have_changed(), "it was written again");
        assert!(files.have_changed());
        assert!(!files.have_changed());
        fs::remove_file(&path).unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed(), "it is gone");
        fs::write(&path, "one").unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed(), "it is back");
    }

    /// `config.yaml -> ..data/config.yaml`, `..data -> ..2026_1`, and that is swapped.
    #[test]
    fn the_kubelets_swap_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["..2026_1", "..2026_2"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("config.yaml"), "same length").unwrap();
        }
        symlink("..2026_1", at("..data")).unwrap();
        symlink("..data/config.yaml", at("config.yaml")).unwrap();
        let mut files = Files::at([at("config.yaml")]);
        symlink("..2026_2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed());
        assert!(!files.have_changed());
    }
}
