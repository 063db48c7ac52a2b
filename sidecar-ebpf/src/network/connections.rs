//! The TCP connections that are followed, by their sockets: a table in which each has one of a few places that its socket's
//! address tells. A look takes a few instructions, where one into a map of the kernel's kind takes a hundred, and every
//! socket of the node is looked for.
//!
//! What is at a place is written and read under its socket's lock. Who gets a place is decided by adding: whoever adds the
//! first one has it, and the others take theirs off again. (Adding is all that programs can do to memory at once on 5.10.)

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use sidecar_common::network::{Begun, CONNECTION_BITS, CONNECTIONS_TOGETHER};

use crate::kernel::{self, Ptr};

/// Places that are looked at together.
#[repr(C)]
#[derive(Clone, Copy)]
struct Group {
    /// Whose they are.
    sockets: [u64; CONNECTIONS_TOGETHER],
    /// How many want them: 1 for those that are taken.
    claims: [u32; CONNECTIONS_TOGETHER],
    connections: [Begun; CONNECTIONS_TOGETHER],
}

#[btf_map]
static CONNECTIONS: Array<Group, { 1 << CONNECTION_BITS }> = Array::new();

/// A socket's place.
pub(crate) struct Place {
    group: *mut Group,
    at: usize,
}

impl Place {
    /// The place of a socket that is followed.
    #[inline(always)]
    pub(crate) fn of(sock: Ptr) -> Option<Self> {
        let socket = number(sock);
        Self::in_group(group(socket)?, socket)
    }

    /// A place for a socket that is followed from here on; `None` if there is none left.
    #[inline(always)]
    pub(crate) fn take(sock: Ptr) -> Option<Self> {
        let socket = number(sock);
        let group = group(socket)?;
        for at in 0..CONNECTIONS_TOGETHER {
            let place = Self { group, at };
            // (that of an earlier socket at this address, whose end was missed. It may lie behind a place that is free by now; then
            // it stays, and whoever comes to it sees that it is another's.)
            if place.socket() == socket {
                return Some(place);
            }
            if place.claims() == 0 {
                place.claim(1);
                if place.claims() == 1 {
                    place.make(socket);
                    return Some(place);
                }
                place.claim(-1);
            }
        }
        None
    }

    #[inline(always)]
    fn in_group(group: *mut Group, socket: u64) -> Option<Self> {
        let mut places = (0..CONNECTIONS_TOGETHER).map(|at| Self { group, at });
        places.find(|place| place.socket() == socket)
    }

    /// What is there.
    #[inline(always)]
    pub(crate) fn connection(&mut self) -> &mut Begun {
        // SAFETY: a live map value, of this socket, whose lock is held.
        unsafe { &mut (*self.group).connections[self.at] }
    }

    /// It is followed no more.
    #[inline(always)]
    pub(crate) fn leave(self) {
        self.make(self.socket().wrapping_neg());
        self.claim(-1);
    }

    #[inline(always)]
    fn socket(&self) -> u64 {
        // SAFETY: a live map value, read at once.
        unsafe { ptr::read_volatile(&raw const (*self.group).sockets[self.at]) }
    }

    /// Adds to what is nobody's the socket, or takes it off: where the next owner's word comes before the last one's, both stand.
    #[inline(always)]
    fn make(&self, socket: u64) {
        // SAFETY: a live map value.
        unsafe { kernel::add(&raw mut (*self.group).sockets[self.at], socket) };
    }

    #[inline(always)]
    fn claims(&self) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.group).claims[self.at]) }
    }

    #[inline(always)]
    fn claim(&self, by: i32) {
        // SAFETY: as above.
        unsafe { kernel::add32(&raw mut (*self.group).claims[self.at], by.cast_unsigned()) };
    }
}

/// A socket's address, as a number.
#[inline(always)]
fn number(sock: Ptr) -> u64 {
    kernel::untyped(sock as u64)
}

#[inline(always)]
fn group(socket: u64) -> Option<*mut Group> {
    /// 2^64 by the golden ratio: the product's first bits are spread well.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let group = socket.wrapping_mul(SPREAD) >> (u64::BITS - CONNECTION_BITS);
    CONNECTIONS.get_ptr_mut(group as u32)
}
