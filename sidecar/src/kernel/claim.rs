//! One agent's claim on the shared kernel side: its scope, its ring, and the books of who asks for
//! which name.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path, process};

use aya::maps::{Array, HashMap, HashOfMaps, Map, MapData, MapError, RingBuf};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use sidecar_common::{
    layout::{RING_BYTES, RING_BYTES_LEAST},
    name,
    policy::{BindingKey, Counters, Maker, RingKey, Scope, ScopeFlags, ScopeId},
};

use super::{
    Error, Ring, ask,
    contract::{self, pinned},
    libraries,
    maps::{BPF_EXIST, Pinned, failed, present},
    own_objects, pins,
};

/// The kernel's number of the ring buffer's map type (`BPF_MAP_TYPE_RINGBUF`).
const MAP_TYPE_RINGBUF: u32 = 27;

/// What an agent asks of the kernel side.
pub(crate) struct Wish<'a> {
    /// What holds there.
    pub(crate) flags: ScopeFlags,
    /// Base names of the programs to hold.
    pub(crate) names: BTreeSet<&'a [u8]>,
    /// Whether there are programs among them that run nothing but what is in their image.
    pub(crate) has_image_only: bool,
}

/// This process's place as the agent of its PID namespace. Given back with [`Claim::leave`]; when
/// the process just dies, the kernel side notices.
pub(crate) struct Claim {
    scope: ScopeId,
    flags: ScopeFlags,
    names: Vec<BindingKey>,
    books: Books,
}

/// The maps that say who asks for which name. Changed under the pins' lock only.
struct Books {
    scopes: HashMap<MapData, ScopeId, Scope>,
    name_filter: Array<MapData, u32>,
    /// With each name's last bytes, by which it is counted in the filter.
    bindings: HashMap<MapData, BindingKey, u64>,
    all_execs: Array<MapData, u32>,
    counters: HashMap<MapData, ScopeId, Counters>,
    rings: HashOfMaps<MapData, RingKey, MapData>,
    mounting: HashMap<MapData, Maker, u64>,
}

impl Books {
    fn open(dir: &Path) -> Result<Self, Error> {
        let pinned = Pinned(dir);
        Ok(Self {
            scopes: pinned.hash(&pinned::SCOPE_LEASES)?,
            name_filter: pinned.array(&pinned::NAME_FILTER)?,
            bindings: pinned.hash(&pinned::BINDINGS)?,
            all_execs: pinned.array(&pinned::ALL_EXECS)?,
            counters: pinned.hash(&pinned::COUNTERS)?,
            rings: HashOfMaps::try_from(Map::HashOfMaps(pinned.data(pinned::RINGS.name)?))
                .map_err(failed(pinned::RINGS.name))?,
            mounting: pinned.hash(&pinned::MOUNTING)?,
        })
    }

    /// From here on a scope's agent hears of its programs by these rings. Classes that have none are the first one's: after each
    /// change of this map the kernel waits until no program has seen it before.
    fn give_rings(&mut self, scope: ScopeId, rings: &[MapData]) -> Result<(), Error> {
        let numbers = (0..rings.len()).cycle();
        for (key, number) in RingKey::all(scope).zip(numbers) {
            if number != 0 || key == RingKey::first(scope) {
                let given = self.rings.insert(key, &rings[number], 0);
                given.map_err(failed(pinned::RINGS.name))?;
            }
        }
        Ok(())
    }

    /// What the kernel side keeps for an agent of this scope is not needed any more.
    fn drop_of_agent(&mut self, scope: ScopeId) {
        let rings = self.rings.keys().filter_map(Result::ok);
        let rings: Vec<RingKey> = rings.filter(|key| key.scope == scope).collect();
        for key in rings {
            let _ = self.rings.remove(&key);
        }
        let _ = self.counters.remove(&scope);
        let makers = self.mounting.keys().filter_map(Result::ok);
        let makers: Vec<Maker> = makers.filter(|maker| maker.scope == scope).collect();
        for maker in makers {
            let _ = self.mounting.remove(&maker);
        }
    }

    fn want_name(&mut self, key: BindingKey, end: u64) -> Result<(), Error> {
        // In this order, and the other way round below: the filter must never be behind.
        self.count_name(end, 1)?;
        self.bindings
            .insert(key, end, 0)
            .map_err(failed(pinned::BINDINGS.name))
    }

    fn is_wanted(&self, key: &BindingKey) -> Result<bool, Error> {
        Ok(present(pinned::BINDINGS.name, self.bindings.get(key, 0))?.is_some())
    }

    fn drop_name(&mut self, key: &BindingKey) -> Result<(), Error> {
        let Some(end) = present(pinned::BINDINGS.name, self.bindings.get(key, 0))? else {
            return Ok(());
        };
        self.bindings
            .remove(key)
            .map_err(failed(pinned::BINDINGS.name))?;
        self.count_name(end, -1)
    }

    fn count_name(&mut self, end: u64, by: i32) -> Result<(), Error> {
        let slot = name::filter_slot(end);
        let bindings = self
            .name_filter
            .get(&slot, 0)
            .map_err(failed(pinned::NAME_FILTER.name))?;
        self.name_filter
            .set(slot, bindings.saturating_add_signed(by), 0)
            .map_err(failed(pinned::NAME_FILTER.name))
    }

    fn want_all_execs(&mut self, by: i32) -> Result<(), Error> {
        let wanted = self
            .all_execs
            .get(&0, 0)
            .map_err(failed(pinned::ALL_EXECS.name))?;
        self.all_execs
            .set(0, wanted.saturating_add_signed(by), 0)
            .map_err(failed(pinned::ALL_EXECS.name))
    }

    /// Our own scope's entry, unless it has an agent. (The kernel side may have missed an agent's end, or not
    /// come to it: a process that has ended is none.)
    fn left_in(&self, scope: ScopeId) -> Result<Option<Scope>, Error> {
        let left = present(pinned::SCOPE_LEASES.name, self.scopes.get(&scope, 0))?;
        match left {
            Some(left) if left.agent != 0 && lives(left.agent_pid) => Err(Error::ScopeTaken {
                scope,
                pid: left.agent_pid,
            }),
            left => Ok(left.map(|left| Scope { agent: 0, ..left })),
        }
    }

    /// The names that are in the books under a scope.
    fn names_of(&self, scope: ScopeId) -> Vec<BindingKey> {
        self.bindings
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.scope == scope)
            .collect()
    }

    /// Everything that an agent that died left in the books under this scope.
    fn clear(&mut self, scope: ScopeId) -> Result<(), Error> {
        self.tidy(scope)?;
        for key in self.names_of(scope) {
            self.drop_name(&key)?;
        }
        Ok(())
    }

    /// The same but for its names, whose programs stay refused until the next agent holds them.
    fn tidy(&mut self, scope: ScopeId) -> Result<Option<Scope>, Error> {
        let mut left = self.left_in(scope)?;
        // Names of scopes that ended with their PID namespace.
        let orphans: Vec<BindingKey> = self
            .bindings
            .keys()
            .filter_map(Result::ok)
            .filter(|key| matches!(self.scopes.get(&key.scope, 0), Err(MapError::KeyNotFound)))
            .collect();
        for key in orphans {
            self.drop_name(&key)?;
        }
        // What the agents of such scopes were given, the kernel side cannot give back.
        let ended: Vec<ScopeId> = self
            .counters
            .keys()
            .filter_map(Result::ok)
            .filter(|key| matches!(self.scopes.get(key, 0), Err(MapError::KeyNotFound)))
            .collect();
        for key in ended {
            self.drop_of_agent(key);
        }
        if let Some(left) = &mut left
            && left.flags.contains(ScopeFlags::ALL_EXECS)
        {
            self.want_all_execs(-1)?;
            left.flags &= !ScopeFlags::ALL_EXECS;
            let scopes = self.scopes.insert(scope, *left, BPF_EXIST);
            scopes.map_err(failed(pinned::SCOPE_LEASES.name))?;
        }
        Ok(left)
    }
}

/// Makes sure that the scope has no agent under another version's kernel side.
pub(crate) fn ensure_free(dir: &Path, scope: ScopeId, _lock: &pins::Lock) -> Result<(), Error> {
    Books::open(dir)?.left_in(scope).map(drop)
}

/// Takes the scope out of another version's books: from here on that one holds no program of it.
/// What it sealed it guards on.
pub(crate) fn hand_over(dir: &Path, scope: ScopeId, _lock: &pins::Lock) -> Result<(), Error> {
    Books::open(dir)?.clear(scope)
}

impl Claim {
    /// Becomes the agent of this process's PID namespace.
    /// Its rings are as many as `workers`, which is one to [`sidecar_common::layout::MAX_WORKERS`]: the delivering threads.
    pub(crate) fn stake(
        lock: &pins::Lock,
        wish: &Wish<'_>,
        workers: usize,
    ) -> Result<(Self, Vec<Ring>), Error> {
        // The ring counts against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        pins::verify(lock)?;
        if wish.has_image_only {
            libraries::attach(lock)?;
        }
        let scope = own_scope()?;
        let mut books = Books::open(&pins::dir())?;
        let left = books.tidy(scope)?;
        let stale = books.names_of(scope);

        // (its threads have other numbers)
        books.drop_of_agent(scope);
        let bytes = (RING_BYTES / workers.next_power_of_two()).max(RING_BYTES_LEAST);
        let rings: Vec<MapData> = (0..workers)
            .map(|_| new_ring(bytes))
            .collect::<Result<_, _>>()?;
        books.give_rings(scope, &rings)?;
        let rings = rings.into_iter().map(|ring| {
            let ring = RingBuf::try_from(Map::RingBuf(ring));
            ring.map(|ring| Ring::new(ring, bytes))
        });
        let rings = rings.collect::<Result<_, _>>().map_err(failed("ring"))?;
        books
            .counters
            .insert(scope, Counters::default(), 0)
            .map_err(failed(pinned::COUNTERS.name))?;
        let mut claim = Self {
            scope,
            flags: wish.flags,
            names: Vec::new(),
            books,
        };
        // Last: from here on programs are held.
        let staked = enlist(scope, wish)
            .and_then(|()| claim.write(wish))
            .and_then(|()| claim.drop_all_but_ours(&stale))
            .and_then(|()| claim.want_all_execs());
        if let Err(e) = staked {
            let _ = claim.withdraw(left);
            return Err(e);
        }
        Ok((claim, rings))
    }

    fn write(&mut self, wish: &Wish<'_>) -> Result<(), Error> {
        for name in &wish.names {
            let key = BindingKey::new(self.scope, name::hash(name));
            if !self.names.contains(&key) {
                if !self.books.is_wanted(&key)? {
                    self.books.want_name(key, name::end(name))?;
                }
                self.names.push(key);
            }
        }
        Ok(())
    }

    fn want_all_execs(&mut self) -> Result<(), Error> {
        if self.flags.contains(ScopeFlags::ALL_EXECS) {
            self.books.want_all_execs(1)?;
        }
        Ok(())
    }

    /// Of the names an agent before us left, those that are not ours.
    fn drop_all_but_ours(&mut self, stale: &[BindingKey]) -> Result<(), Error> {
        for key in stale.iter().filter(|key| !self.names.contains(key)) {
            self.books.drop_name(key)?;
        }
        Ok(())
    }

    /// The PID namespace this agent answers for.
    pub(crate) fn scope(&self) -> ScopeId {
        self.scope
    }

    /// From here on by another wish. Nothing that both ask for is let go in between.
    pub(crate) fn renew(&mut self, lock: &pins::Lock, wish: &Wish<'_>) -> Result<(), Error> {
        if wish.has_image_only {
            libraries::attach(lock)?;
        }
        let before = std::mem::take(&mut self.names);
        let renewed = self.write(wish).and_then(|()| self.adopt_flags(wish.flags));
        if renewed.is_err() {
            // (what is asked for by halves is still known to be)
            for key in before {
                if !self.names.contains(&key) {
                    self.names.push(key);
                }
            }
            return renewed;
        }
        self.drop_all_but_ours(&before)
    }

    fn adopt_flags(&mut self, flags: ScopeFlags) -> Result<(), Error> {
        let scope = present(
            pinned::SCOPE_LEASES.name,
            self.books.scopes.get(&self.scope, 0),
        )?;
        let scope = scope.ok_or(Error::NotEnlisted)?;
        let wants = |flags: ScopeFlags| i32::from(flags.contains(ScopeFlags::ALL_EXECS));
        match wants(flags) - wants(self.flags) {
            0 => {}
            by => self.books.want_all_execs(by)?,
        }
        self.flags = flags;
        let changed = self
            .books
            .scopes
            .insert(self.scope, Scope { flags, ..scope }, BPF_EXIST);
        changed.map_err(failed(pinned::SCOPE_LEASES.name))
    }

    /// No new program is held from here on.
    pub(crate) fn stop_holding(&mut self, _lock: &pins::Lock) -> Result<(), Error> {
        for key in std::mem::take(&mut self.names) {
            self.books.drop_name(&key)?;
        }
        Ok(())
    }

    /// Leaves the scope to a later agent. What is sealed stays sealed.
    pub(crate) fn leave(mut self, lock: &pins::Lock, sealed: usize) -> Result<(), Error> {
        self.stop_holding(lock)?;
        if self.flags.contains(ScopeFlags::ALL_EXECS) {
            self.books.want_all_execs(-1)?;
        }
        self.books.drop_of_agent(self.scope);
        if sealed == 0 {
            return self
                .books
                .scopes
                .remove(&self.scope)
                .map_err(failed(pinned::SCOPE_LEASES.name));
        }
        let scope = present(
            pinned::SCOPE_LEASES.name,
            self.books.scopes.get(&self.scope, 0),
        )?;
        let scope = Scope {
            agent: 0,
            flags: self.flags & !ScopeFlags::ALL_EXECS,
            agent_pid: 0,
            ..scope.ok_or(Error::NotEnlisted)?
        };
        self.books
            .scopes
            .insert(self.scope, scope, BPF_EXIST)
            .map_err(failed(pinned::SCOPE_LEASES.name))
    }

    /// Undoes a stake that failed half-way: where an agent before us had left the scope, its names stay
    /// refused.
    fn withdraw(&mut self, left: Option<Scope>) -> Result<(), Error> {
        self.books.drop_of_agent(self.scope);
        if let Some(left) = left {
            let put_back = self.books.scopes.insert(self.scope, left, 0);
            return put_back.map_err(failed(pinned::SCOPE_LEASES.name));
        }
        for key in std::mem::take(&mut self.names) {
            self.books.drop_name(&key)?;
        }
        let _ = self.books.scopes.remove(&self.scope);
        Ok(())
    }
}

fn enlist(scope: ScopeId, wish: &Wish<'_>) -> Result<(), Error> {
    let arguments = [scope, wish.flags.bits(), process::id()].map(u64::from);
    match ask::run(contract::ENLIST, &arguments)? {
        0 => Err(Error::NotEnlisted),
        _ => Ok(()),
    }
}

/// Whether a process of our PID namespace lives; one that has ended and is not waited for does not.
fn lives(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return false;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            !matches!(poll(&mut ended, Some(&Timespec::default())), Ok(1))
        }
        // (whoever cannot be asked about is not taken for dead)
        Err(e) => e != Errno::SRCH,
    }
}

/// The PID namespace this process lives in.
pub(crate) fn own_scope() -> Result<ScopeId, Error> {
    // Namespace inode numbers are 32 bits in the kernel (`ns_common.inum`).
    ScopeId::try_from(own_namespace()?.ino())
        .map_err(|e| Error::Namespace(std::io::Error::other(e)))
}

/// The file that this namespace is told by.
pub(super) fn own_namespace() -> Result<fs::Metadata, Error> {
    fs::metadata("/proc/self/ns/pid").map_err(Error::Namespace)
}

/// A ring of so many bytes.
fn new_ring(bytes: usize) -> Result<MapData, Error> {
    let bytes = u32::try_from(bytes).expect("far below 4 GiB");
    let described = aya_obj::Map::new_from_params(MAP_TYPE_RINGBUF, 0, 0, bytes, 0);
    let ring = MapData::create(described, "kernelseal", None).map_err(failed("ring"))?;
    own_objects::note_map(&ring)?;
    Ok(ring)
}
