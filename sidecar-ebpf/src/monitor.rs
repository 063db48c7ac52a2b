//! What the monitors' kernel sides do alike: whose something is, as the monitor's agent can name it, where that lives,
//! and records out.

use core::{
    cell::UnsafeCell,
    mem::{self, MaybeUninit},
};

use aya_ebpf::{
    bindings::bpf_pidns_info,
    btf_maps::{Array, LruHashMap, RingBuf},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_ns_current_pid_tgid, bpf_ktime_get_ns,
    },
    maps::ring_buf::RingBufEntry,
};
use bytemuck::Zeroable;
use sidecar_common::{
    event::Header,
    monitor::{Comm, KIND_PLACE, LOST_RECORDS, Owner, PLACES_AT_HAND, PLACES_TOLD, Place, Within},
};

use crate::{
    cgroup_paths,
    kernel::{self, Ptr, field, is_typed, load, off, read},
};

/// A global variable. Its section is a map of a single entry, which the agent finds by the section's name. An access is a direct
/// load, with no helper call and no null check.
#[repr(transparent)]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: whoever looks at it does so by a pointer, and answers for it.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Zeroable> Shared<T> {
    /// Zeros, until somebody writes.
    #[must_use]
    pub const fn zeroed() -> Self {
        // SAFETY: zeros are a value of the type.
        Self(UnsafeCell::new(unsafe { mem::zeroed() }))
    }

    /// Where it is.
    #[inline(always)]
    #[must_use]
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Control groups that were told last, by a part of their numbers.
pub type AtHand = [u64; PLACES_AT_HAND];

/// A monitor's maps; each has its own.
pub struct Maps<const BYTES: usize, const COUNTERS: usize> {
    /// Records out.
    // `()`: bpftool and libbpf refuse a ring with a value type; records are typed when reserved.
    pub records: &'static RingBuf<(), BYTES>,
    /// What was not told, by `LOST_*`.
    pub lost: &'static Array<u64, COUNTERS>,
    /// Control groups that were told; one that is pushed out is told again.
    pub places_told: &'static LruHashMap<u64, u32, PLACES_TOLD>,
    /// Of these, the last by a part of its number: a look here takes a tenth of one there.
    pub places_at_hand: &'static Shared<AtHand>,
}

impl<const BYTES: usize, const COUNTERS: usize> Maps<BYTES, COUNTERS> {
    /// Room for a record; `None` if the ring is full, and the loss is counted.
    #[inline(always)]
    #[must_use]
    pub fn reserve<T: 'static>(&self) -> Option<RingBufEntry<T>> {
        let entry = self.records.reserve_untyped::<T>(0);
        if entry.is_none() {
            self.count_loss(LOST_RECORDS);
        }
        entry
    }

    /// Counts something that will not be told.
    #[inline(always)]
    pub fn count_loss(&self, of: u32) {
        if let Some(counter) = self.lost.get_ptr_mut(of) {
            // SAFETY: a live map value.
            unsafe { kernel::add(counter, 1) };
        }
    }

    /// The running process, of which the agent's number for it is known; where it lives has been told then. (By its number
    /// alone an agent finds no container whose program is gone already.) To be asked only where the process itself is at work.
    #[inline(always)]
    #[must_use]
    pub fn owner(&self, pid: u32) -> Owner {
        let cgroup = group_of_current();
        self.tell_place(cgroup);
        let process = Task::running().process();
        process.owner_in(cgroup, pid, process.started_ns())
    }

    /// Tells where the running task's control group is, once.
    #[inline(always)]
    pub fn tell_place(&self, cgroup: u64) {
        let at = cgroup as usize % PLACES_AT_HAND;
        // SAFETY: within the array; one word, whatever others write there.
        let at_hand = unsafe { self.places_at_hand.get().cast::<u64>().add(at) };
        // SAFETY: as above.
        if unsafe { at_hand.read_volatile() } == cgroup {
            return;
        }
        if self.places_told.get_ptr(cgroup).is_some() {
            // SAFETY: as above.
            unsafe { at_hand.write_volatile(cgroup) };
            return;
        }
        let Some(mut entry) = self.reserve::<Place>() else {
            return;
        };
        let place = entry.as_mut_ptr();
        // SAFETY: reserved memory of this size.
        unsafe {
            (*place).header = header(KIND_PLACE, now());
            cgroup_paths::write(place, cgroup, kernel::current());
        }
        entry.submit(0);
        let _ = self.places_told.insert(cgroup, 1, 0);
    }
}

/// The task that runs.
#[derive(Clone, Copy)]
pub struct Task(Ptr);

impl Task {
    /// It.
    #[inline(always)]
    #[must_use]
    pub fn running() -> Self {
        Self(kernel::own_task())
    }

    /// Its address.
    #[inline(always)]
    #[must_use]
    pub fn address(self) -> u64 {
        kernel::untyped(self.0 as u64)
    }

    /// When it started (boot clock, nanoseconds).
    #[inline(always)]
    #[must_use]
    pub fn started_ns(self) -> u64 {
        field!(self.0, task_start as u64)
    }

    /// Whether its call is one of 32 bits: it has its number from another table, and its arguments in other registers.
    #[inline(always)]
    #[must_use]
    pub fn is_narrow(self) -> bool {
        field!(self.0, task_narrow as u32) & kernel::NARROW_CALL != 0
    }

    /// The user that it runs as.
    #[inline(always)]
    #[must_use]
    pub fn uid(self) -> u32 {
        let cred = field!(self.0, task_cred as usize) as Ptr;
        field!(cred, cred_uid as u32)
    }

    /// Its process, without a look by a helper where it is the first thread itself, as nearly always.
    #[inline(always)]
    #[must_use]
    pub fn process(self) -> Process {
        Process(if !is_typed() && kernel::is_leader() {
            self.0
        } else {
            field!(self.0, task_leader as usize) as Ptr
        })
    }
}

/// The process that runs, by its first thread.
#[derive(Clone, Copy)]
pub struct Process(Ptr);

impl Process {
    /// When it started (boot clock, nanoseconds).
    #[inline(always)]
    #[must_use]
    pub fn started_ns(self) -> u64 {
        Task(self.0).started_ns()
    }

    /// Its number as the agent sees it; 0 when it does not.
    #[inline(always)]
    fn number(self, within: &Within) -> u32 {
        // (a typed pointer has no places that are told at run time)
        number_of(
            untyped(field!(self.0, task_thread_pid as usize) as Ptr),
            within,
        )
    }

    /// All that is told of it, of which its control group, number and start are known.
    #[inline(always)]
    #[must_use]
    pub fn owner_in(self, cgroup: u64, pid: u32, started_ns: u64) -> Owner {
        Owner {
            pid,
            reserved: 0,
            cgroup,
            started_ns,
            comm: self.comm(),
        }
    }

    /// The name of its first thread: another may have one of its own.
    #[inline(always)]
    fn comm(self) -> Comm {
        const WORD: usize = size_of::<u64>();
        [
            field!(self.0, task_comm as u64),
            field!(self.0.wrapping_add(WORD), task_comm as u64),
        ]
    }
}

/// The number by which the agent sees a process, of which this is the `struct pid`; 0 when it does not. Without a walk: a process
/// that the agent sees has its number there at the agent's own level.
#[inline(always)]
#[must_use]
pub fn number_of(pid: Ptr, within: &Within) -> u32 {
    if kernel::level_of(pid) < within.level {
        return 0;
    }
    let number = kernel::number_at(pid, within.level);
    if number.namespace == within.scope {
        number.nr
    } else {
        0
    }
}

/// The running process's number as the agent sees it, if it does.
#[inline(always)]
#[must_use]
pub fn watched(within: &Within) -> Option<u32> {
    match number_of_current(within) {
        0 => None,
        pid => Some(pid),
    }
}

/// The same; 0 when it does not.
#[inline(always)]
#[must_use]
pub fn number_of_current(within: &Within) -> u32 {
    if within.level == 0 {
        // everybody has a number in the first namespace, which is the kernel's own
        return kernel::current_tgid();
    }
    let mut numbers = MaybeUninit::<bpf_pidns_info>::uninit();
    // SAFETY: the helper writes so many bytes, whatever it finds.
    let failed = unsafe {
        bpf_get_ns_current_pid_tgid(
            within.device,
            within.scope.into(),
            numbers.as_mut_ptr(),
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    if failed == 0 {
        // SAFETY: it has been written.
        return unsafe { numbers.assume_init() }.tgid;
    }
    // (that is for processes of the agent's own namespace alone)
    Task::running().process().number(within)
}

/// The running task's control group.
#[inline(always)]
#[must_use]
pub fn group_of_current() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_cgroup_id() }
}

/// A pointer as a number: a helper's look, at places that the verifier need not know.
#[inline(always)]
fn untyped(pointer: Ptr) -> Ptr {
    kernel::untyped(pointer as u64) as usize as Ptr
}

/// The level of the running process's own PID namespace.
#[inline(always)]
#[must_use]
pub fn level_of_current() -> u32 {
    kernel::level_of(kernel::own_pid())
}

/// The monotonic clock.
#[inline(always)]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A record's head.
#[inline(always)]
#[must_use]
pub fn header(kind: u32, time_ns: u64) -> Header {
    Header {
        kind,
        tgid: 0,
        time_ns,
    }
}

/// A program that tells the level of the PID namespace of who asks: the agent. Attached nowhere, it runs for its answer,
/// which aya's macro for such programs would not give.
#[macro_export]
macro_rules! own_level {
    () => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "raw_tp/sys_enter")]
        pub fn own_level(_ctx: *mut core::ffi::c_void) -> u32 {
            $crate::monitor::level_of_current()
        }
    };
}
