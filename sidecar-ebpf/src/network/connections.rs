//! The TCP connections that are followed, by their sockets: a table in which each has one of a few places that its socket's
//! address tells. A look takes eight instructions, where one into a hash of the kernel's takes a hundred, and every socket
//! of the node is looked for.
//!
//! What is at a place is written and read under its socket's lock. Who gets a place is decided by adding: whoever adds the
//! first one has it, and the others take theirs off again. (Adding is all that programs can do to memory at once on 5.10.)

use core::{arch::asm, ptr};

use bytemuck::Zeroable;
use sidecar_common::network::{Begun, CONNECTION_BITS, CONNECTIONS_TOGETHER};
use sidecar_ebpf::monitor::Shared;

use crate::kernel::{self, Ptr};

/// Places that are looked at together.
#[repr(C)]
#[derive(Clone, Copy, Zeroable)]
struct Group {
    /// Whose they are.
    sockets: [u64; CONNECTIONS_TOGETHER],
    slots: [Slot; CONNECTIONS_TOGETHER],
}

#[repr(C)]
#[derive(Clone, Copy, Zeroable)]
struct Slot {
    /// How many want it: 1 if it is taken.
    claims: u64,
    connection: Begun,
}

static CONNECTIONS: Shared<[Group; 1 << CONNECTION_BITS]> = Shared::zeroed();

/// A socket's place.
pub(crate) struct Place {
    /// Whose it is.
    socket: *mut u64,
    slot: *mut Slot,
}

impl Place {
    /// The place of a socket that is followed.
    #[inline(always)]
    pub(crate) fn of(sock: Ptr) -> Option<Self> {
        Self::first_for(sock, |place| place.if_of(sock))
    }

    /// A place for a socket that is followed from here on; `None` if there is none left.
    #[inline(always)]
    pub(crate) fn take(sock: Ptr) -> Option<Self> {
        Self::first_for(sock, |place| place.taken(sock))
    }

    /// The first of those where a socket's may be of which that is so.
    #[inline(always)]
    fn first_for(sock: Ptr, is_it: impl Fn(Self) -> Option<Self>) -> Option<Self> {
        let group = group(sock);
        // (the first by itself: nearly always it is that, and to go through them has its price)
        let first = is_it(Self::at(group, 0));
        first.or_else(|| (1..CONNECTIONS_TOGETHER).find_map(|at| is_it(Self::at(group, at))))
    }

    /// This one, if it is the socket's.
    #[inline(always)]
    fn if_of(self, sock: Ptr) -> Option<Self> {
        (self.owner() == sock as u64).then(|| self.itself())
    }

    /// This one, if it can be had.
    #[inline(always)]
    fn taken(self, sock: Ptr) -> Option<Self> {
        // (that of an earlier socket at this address, whose end was missed. It may lie behind a place that is free by now; then
        // it stays, and whoever comes to it sees that it is another's.)
        if self.owner() == sock as u64 {
            return Some(self.itself());
        }
        if self.claims() == 0 {
            self.claim(1);
            if self.claims() == 1 {
                self.make(sock as u64);
                return Some(self.itself());
            }
            self.claim(-1);
        }
        None
    }

    #[inline(always)]
    fn at(group: *mut Group, at: usize) -> Self {
        // SAFETY: within the table.
        unsafe {
            Self {
                socket: (&raw mut (*group).sockets).cast::<u64>().add(at),
                slot: (&raw mut (*group).slots).cast::<Slot>().add(at),
            }
        }
    }

    /// By its own addresses, each once. (A compiler that knows them keeps the group and the place's number, and computes these
    /// wherever something is done with it.)
    #[inline(always)]
    fn itself(mut self) -> Self {
        // SAFETY: does nothing. (Registers by name: others would have to stand in the text, and a text that is not empty becomes a
        // line of debugging information, of which the kernel allows one an instruction.)
        unsafe {
            asm!("", inout("r8") self.socket, options(pure, nomem, nostack, preserves_flags));
            asm!("", inout("r9") self.slot, options(pure, nomem, nostack, preserves_flags));
        }
        self
    }

    /// What is there.
    #[inline(always)]
    pub(crate) fn connection(&mut self) -> &mut Begun {
        // SAFETY: a place of the table, of this socket, whose lock is held.
        unsafe { &mut (*self.slot).connection }
    }

    /// It is followed no more.
    #[inline(always)]
    pub(crate) fn leave(self) {
        self.make(self.owner().wrapping_neg());
        self.claim(-1);
    }

    #[inline(always)]
    fn owner(&self) -> u64 {
        // SAFETY: in the table, read at once.
        unsafe { ptr::read_volatile(self.socket) }
    }

    /// Adds to what is nobody's the socket, or takes it off: where the next owner's word comes before the last one's, both stand.
    #[inline(always)]
    fn make(&self, socket: u64) {
        // SAFETY: in the table.
        unsafe { kernel::add(self.socket, socket) };
    }

    #[inline(always)]
    fn claims(&self) -> u64 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.slot).claims) }
    }

    #[inline(always)]
    fn claim(&self, by: i64) {
        // SAFETY: as above.
        unsafe { kernel::add(&raw mut (*self.slot).claims, by.cast_unsigned()) };
    }
}

/// Where a socket's place is, if it has one.
#[inline(always)]
fn group(sock: Ptr) -> *mut Group {
    /// 2^32 by the golden ratio: the product's first bits are spread well. (The address's lower half is enough, and all that the
    /// verifier lets be multiplied.)
    const SPREAD: u32 = 0x9e37_79b9;
    let group = (sock as u64 as u32).wrapping_mul(SPREAD) >> (u32::BITS - CONNECTION_BITS);
    // SAFETY: within the table.
    unsafe { CONNECTIONS.get().cast::<Group>().add(group as usize) }
}
