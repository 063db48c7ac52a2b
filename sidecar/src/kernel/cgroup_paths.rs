//! Where control groups are, as the monitors' kernel sides tell it.

use std::{
    ffi::{CStr, OsStr},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use sidecar_common::monitor::{PLACE_NAME_LEN, Place};

/// A control group's path from the root, if it is told in full; `None` for the root, too.
pub(crate) fn path_of(place: &Place) -> Option<PathBuf> {
    let levels = usize::try_from(place.levels).ok().filter(|n| *n > 0)?;
    let names = place.names.get(..levels)?.iter().rev();
    let mut path = PathBuf::from("/");
    for name in names {
        let name = CStr::from_bytes_until_nul(name).ok()?.to_bytes();
        // (one that was cut is another's, perhaps)
        let is_whole = !name.is_empty() && name.len() < PLACE_NAME_LEN - 1;
        path.push(is_whole.then(|| OsStr::from_bytes(name))?);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sidecar_common::monitor::PLACE_LEVELS;

    use super::*;

    fn place(names: &[&str]) -> Place {
        let mut place = Place::zeroed();
        place.levels = names.len() as u64;
        for (told, name) in place.names.iter_mut().zip(names) {
            told[..name.len()].copy_from_slice(name.as_bytes());
        }
        place
    }

    #[test]
    fn a_path_is_told_from_its_end() {
        let path = path_of(&place(&["app", "pod7", "kubepods"]));
        assert_eq!(path.unwrap().as_os_str(), "/kubepods/pod7/app");
    }

    #[test]
    fn what_is_not_told_in_full_is_no_path() {
        assert_eq!(path_of(&place(&[])), None);
        assert_eq!(path_of(&place(&["a", "", "b"])), None);
        assert_eq!(path_of(&place(&[&"x".repeat(PLACE_NAME_LEN - 1)])), None);
        let mut deep = place(&["a"; PLACE_LEVELS]);
        assert!(path_of(&deep).is_some());
        deep.levels += 1;
        assert_eq!(path_of(&deep), None);
        let mut endless = place(&["a"]);
        endless.names[0] = [b'a'; PLACE_NAME_LEN];
        assert_eq!(path_of(&endless), None);
    }
}
