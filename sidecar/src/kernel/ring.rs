//! An agent's ring buffer, read record by record.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use sidecar_common::event::{Access, Exec, Exit, Header, RecordKind};

/// What the kernel side says.
#[derive(Debug)]
pub(crate) enum Record {
    /// A program is held; look in the map of held programs.
    Held(Header),
    /// Somebody reached for something sealed.
    Access(Box<Access>),
    /// A sealed process ended.
    Exit(Exit),
    /// A program was started.
    Exec(Box<Exec>),
    /// The kernel side refused a program.
    Refused(Box<Exec>),
    /// Bytes that are none of these: the other side is not our version.
    Unknown,
}

impl Record {
    /// What a record's bytes mean.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let parse = || -> Option<Self> {
            let header: Header = whole(bytes)?;
            Some(match RecordKind::try_from(header.kind).ok()? {
                RecordKind::Held => Self::Held(header),
                RecordKind::Access => Self::Access(Box::new(whole(bytes)?)),
                RecordKind::Exit => Self::Exit(whole(bytes)?),
                RecordKind::Exec => Self::Exec(Box::new(whole(bytes)?)),
                RecordKind::Refused => Self::Refused(Box::new(whole(bytes)?)),
            })
        };
        parse().unwrap_or(Self::Unknown)
    }
}

/// A record of a type, if the bytes suffice.
pub(super) fn whole<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes
        .get(..size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
}

const _: () = assert!(
    size_of::<Exec>() >= size_of::<Access>() && size_of::<Exec>() >= size_of::<Exit>(),
    "the largest record"
);

/// The reading end.
pub(crate) struct Ring {
    ring: RingBuf<MapData>,
    bytes: usize,
}

impl Ring {
    /// Of a ring of so many bytes.
    pub(super) fn new(ring: RingBuf<MapData>, bytes: usize) -> Self {
        Self { ring, bytes }
    }

    /// Records that it holds at the least when it is full.
    pub(crate) fn least_of_a_full(&self) -> usize {
        /// What the kernel puts before each record (`BPF_RINGBUF_HDR_SZ`), in bytes.
        const HEADER: usize = 8;
        // The largest record; one more may not have found room at the end.
        self.bytes / (size_of::<Exec>() + HEADER) - 1
    }

    /// The next record, if there is one.
    pub(crate) fn next(&mut self) -> Option<Record> {
        self.ring.next().map(|bytes| Record::parse(&bytes))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
