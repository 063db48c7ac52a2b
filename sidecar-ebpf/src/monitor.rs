//! What the monitors' kernel sides do alike: whose something is, as the monitor's agent can name it, where that lives,
//! and records out.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, RingBuf},
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_ktime_get_ns},
    maps::ring_buf::RingBufEntry,
};
use sidecar_common::{
    event::Header,
    monitor::{Comm, KIND_PLACE, LOST_RECORDS, Owner, PLACES_TOLD, Place},
    policy::ScopeId,
};

use crate::{
    kernel::{self, Ptr, follow, off, read},
    places,
};

/// A monitor's maps; each has its own.
pub struct Maps<const BYTES: usize, const COUNTERS: usize> {
    /// Records out.
    // `()`: bpftool and libbpf refuse a ring with a value type; records are typed when reserved.
    pub records: &'static RingBuf<(), BYTES>,
    /// What was not told, by `LOST_*`.
    pub lost: &'static Array<u64, COUNTERS>,
    /// Control groups that were told; one that is pushed out is told again.
    pub places_told: &'static LruHashMap<u64, u32, PLACES_TOLD>,
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

    /// The running process, if an agent in that PID namespace, which is at that level, sees it; where it lives has been
    /// told then. (By its number alone an agent finds no container whose program is gone already.) To be asked only
    /// where the process itself is at work.
    #[inline(always)]
    #[must_use]
    pub fn owner(&self, scope: ScopeId, level: u32) -> Option<Owner> {
        let process = Running::now();
        let pid = process.number(scope, level);
        if pid == 0 {
            return None;
        }
        let owner = process.owner(pid, process.started_ns());
        self.tell_place(owner.cgroup);
        Some(owner)
    }

    /// Tells where the running task's control group is, once.
    #[inline(always)]
    pub fn tell_place(&self, cgroup: u64) {
        if self.places_told.get_ptr(cgroup).is_some() {
            return;
        }
        let Some(mut entry) = self.reserve::<Place>() else {
            return;
        };
        let place = entry.as_mut_ptr();
        // SAFETY: reserved memory of this size.
        unsafe {
            (*place).header = header(KIND_PLACE, now());
            places::write(place, cgroup, kernel::current());
        }
        entry.submit(0);
        let _ = self.places_told.insert(cgroup, 1, 0);
    }
}

/// The running process.
#[derive(Clone, Copy)]
pub struct Running {
    /// Its first thread.
    leader: Ptr,
    /// Whether that is the one that runs.
    is_leader: bool,
}

impl Running {
    /// Found without a look where its first thread runs, as nearly always.
    #[inline(always)]
    #[must_use]
    pub fn now() -> Self {
        let task = kernel::current();
        let is_leader = kernel::is_leader();
        let leader = if is_leader {
            task
        } else {
            follow(task, off!(task_leader))
        };
        Self { leader, is_leader }
    }

    /// When it started (boot clock, nanoseconds).
    #[inline(always)]
    #[must_use]
    pub fn started_ns(self) -> u64 {
        read(self.leader, off!(task_start))
    }

    /// Its number as such an agent sees it; 0 when it does not. Without a walk: a process that the agent sees has its
    /// number there at the agent's own level.
    #[inline(always)]
    #[must_use]
    pub fn number(self, scope: ScopeId, level: u32) -> u32 {
        let pid = follow(self.leader, off!(task_thread_pid));
        if kernel::level_of(pid) < level {
            return 0;
        }
        let number = kernel::number_at(pid, level);
        if number.namespace == scope {
            number.nr
        } else {
            0
        }
    }

    /// All that is told of it, of which its number and start are known.
    #[inline(always)]
    #[must_use]
    pub fn owner(self, pid: u32, started_ns: u64) -> Owner {
        Owner {
            pid,
            reserved: 0,
            // SAFETY: the helper has no preconditions.
            cgroup: unsafe { bpf_get_current_cgroup_id() },
            started_ns,
            comm: self.comm(),
        }
    }

    /// Its first thread's name: another thread may have one of its own. (Of who runs, the helper tells it for less.)
    #[inline(always)]
    fn comm(self) -> Comm {
        if !self.is_leader {
            return read(self.leader, off!(task_comm));
        }
        let mut comm = Comm::default();
        // SAFETY: writes so many bytes.
        unsafe { bpf_get_current_comm((&raw mut comm).cast(), size_of::<Comm>() as u32) };
        comm
    }
}

/// The level of the running process's own PID namespace.
#[inline(always)]
#[must_use]
pub fn level_of_current() -> u32 {
    kernel::level_of(kernel::pid_of(kernel::current()))
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
