//! The network monitor's ring buffer, read record by record.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use sidecar_common::{
    event::Header,
    monitor::Place,
    network::{Answer, Flow, Gone, RecordKind, Unix},
};

use super::super::ring::whole;

/// What the kernel side says.
#[derive(Debug)]
pub(crate) enum NetworkRecord {
    /// A connection began, could not be made, or ended; which, is in its header.
    Flow(Box<Flow>),
    /// A connection by a Unix socket began, or could not be made.
    Unix(Box<Unix>),
    /// A UDP or Unix socket is gone.
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
            Some(match RecordKind::try_from(header.kind).ok()? {
                RecordKind::Connect | RecordKind::Accept | RecordKind::Close => {
                    Self::Flow(Box::new(whole(bytes)?))
                }
                RecordKind::Unix => Self::Unix(Box::new(whole(bytes)?)),
                RecordKind::Gone => Self::Gone(whole(bytes)?),
                RecordKind::Answer => Self::Answer(Box::new(whole(bytes)?)),
                RecordKind::Place => Self::Place(Box::new(whole(bytes)?)),
            })
        };
        parse().unwrap_or(Self::Unknown)
    }
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
