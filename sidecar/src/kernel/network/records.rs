//! The network monitor's ring buffer, read record by record.

use std::{
    ffi::{CStr, OsStr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use aya::maps::{MapData, RingBuf};
use sidecar_common::{
    event::Header,
    network::{
        Answer, Flow, Gone, KIND_ACCEPT, KIND_ANSWER, KIND_CLOSE, KIND_CONNECT, KIND_GONE,
        KIND_PLACE, PLACE_NAME_LEN, Place,
    },
};

use super::super::ring::whole;

/// What the kernel side says.
#[derive(Debug)]
pub(crate) enum NetworkRecord {
    /// A connection began, could not be made, or ended; which, is in its header.
    Flow(Box<Flow>),
    /// A UDP socket is gone.
    Gone(Gone),
    /// A DNS server answered.
    Answer(Box<Answer>),
    /// Where a control group is.
    Place(Box<Place>),
    /// Bytes that are none of these.
    Unknown,
}

impl NetworkRecord {
    /// What a record's bytes mean.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let parse = || -> Option<Self> {
            let header: Header = whole(bytes)?;
            Some(match header.kind {
                KIND_CONNECT | KIND_ACCEPT | KIND_CLOSE => Self::Flow(Box::new(whole(bytes)?)),
                KIND_GONE => Self::Gone(whole(bytes)?),
                KIND_ANSWER => Self::Answer(Box::new(whole(bytes)?)),
                KIND_PLACE => Self::Place(Box::new(whole(bytes)?)),
                _ => return None,
            })
        };
        parse().unwrap_or(Self::Unknown)
    }
}

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

/// The reading end.
pub(crate) struct NetworkRing(pub(super) RingBuf<MapData>);

impl NetworkRing {
    /// The next record, if there is one.
    pub(crate) fn next(&mut self) -> Option<NetworkRecord> {
        self.0.next().map(|bytes| NetworkRecord::parse(&bytes))
    }
}

impl AsFd for NetworkRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sidecar_common::network::PLACE_LEVELS;

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
