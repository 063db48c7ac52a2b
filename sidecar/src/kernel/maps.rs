//! The shared maps, opened from their pins, and one agent's claim on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    process,
};

use aya::{
    Pod,
    maps::{Array, HashMap, HashOfMaps, Map, MapData, MapError, RingBuf},
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sidecar_common::{
    layout::RING_BYTES,
    name,
    policy::{
        BindingKey, Counters, HELD_REEXEC, HELD_SEIZED, Held, SCOPE_ALL_EXECS, SEALED_AGENT,
        SEALED_EXECING, SEALED_ROOT, SEALED_VOID, Scope, ScopeId, Sealed, Vault,
    },
};

use super::{Error, Ring, load, pins};

/// The kernel's number of the ring buffer's map type (`BPF_MAP_TYPE_RINGBUF`).
const MAP_TYPE_RINGBUF: u32 = 27;
const BPF_EXIST: u64 = 2;

fn failed<E: ToString>(name: &'static str) -> impl FnOnce(E) -> Error {
    move |cause| Error::Map {
        name,
        cause: cause.to_string(),
    }
}

fn data(name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(pins::map(name)).map_err(failed(name))
}

fn hash<K: Pod, V: Pod>(name: &'static str) -> Result<HashMap<MapData, K, V>, Error> {
    HashMap::try_from(Map::HashMap(data(name)?)).map_err(failed(name))
}

fn array<V: Pod>(name: &'static str) -> Result<Array<MapData, V>, Error> {
    Array::try_from(Map::Array(data(name)?)).map_err(failed(name))
}

/// A value, or `None` where the map has no such key.
fn present<V>(name: &'static str, value: Result<V, MapError>) -> Result<Option<V>, Error> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(e) => Err(failed(name)(e)),
    }
}

/// The maps an agent works with while it runs. Cheap to open more than once.
pub(crate) struct Maps {
    scopes: HashMap<MapData, ScopeId, Scope>,
    sealed: HashMap<MapData, u32, Sealed>,
    trees: HashMap<MapData, u64, u64>,
    held: HashMap<MapData, u32, Held>,
    vaults: HashMap<MapData, u64, Vault>,
    mounting: HashMap<MapData, ScopeId, u64>,
    counters: HashMap<MapData, ScopeId, Counters>,
}

impl Maps {
    /// Opens the pinned maps.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self {
            scopes: hash("SCOPES")?,
            sealed: hash("SEALED")?,
            trees: hash("TREES")?,
            held: hash("HELD")?,
            vaults: hash("VAULTS")?,
            mounting: hash("MOUNTING")?,
            counters: hash("COUNTERS")?,
        })
    }

    /// Every scope on the node.
    pub(crate) fn scopes(&self) -> Vec<(ScopeId, Scope)> {
        self.scopes.iter().filter_map(Result::ok).collect()
    }

    /// One of them.
    pub(crate) fn scope(&self, id: ScopeId) -> Option<Scope> {
        self.scopes.get(&id, 0).ok()
    }

    /// How many processes are under seal, agents not counted.
    pub(crate) fn sealed(&self) -> usize {
        self.count_sealed(|_| true)
    }

    /// The same, in one scope.
    pub(crate) fn sealed_in(&self, scope: ScopeId) -> usize {
        self.count_sealed(|sealed| sealed.scope == scope)
    }

    fn count_sealed(&self, chosen: impl Fn(&Sealed) -> bool) -> usize {
        const NOT_SEALED: u32 = SEALED_AGENT | SEALED_EXECING | SEALED_VOID;
        self.sealed
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, sealed)| sealed.flags & NOT_SEALED == 0 && chosen(sealed))
            .count()
    }

    /// A held program.
    pub(crate) fn held(&self, tgid: u32) -> Result<Option<Held>, Error> {
        present("HELD", self.held.get(&tgid, 0))
    }

    /// All that is held in a scope.
    pub(crate) fn all_held(&self, scope: ScopeId) -> Vec<(u32, Held)> {
        self.held
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, held)| held.scope == scope)
            .collect()
    }

    /// The program goes its way: its agent may no longer attach, and it is not waited for.
    pub(crate) fn forget_held(&mut self, tgid: u32) -> Result<(), Error> {
        match self.held.remove(&tgid) {
            Err(e) if !matches!(e, MapError::KeyNotFound | MapError::SyscallError(_)) => {
                Err(failed("HELD")(e))
            }
            _ => Ok(()),
        }
    }

    /// The next exec of this held program is our own doing.
    pub(crate) fn expect_reexec(&mut self, tgid: u32, held: &Held) -> Result<(), Error> {
        self.mark_held(tgid, held, HELD_REEXEC)
    }

    /// We are attached to this held program: the kernel side need not wait for us.
    pub(crate) fn tell_seized(&mut self, tgid: u32, held: &Held) -> Result<(), Error> {
        self.mark_held(tgid, held, HELD_SEIZED)
    }

    fn mark_held(&mut self, tgid: u32, held: &Held, flag: u32) -> Result<(), Error> {
        let held = Held {
            flags: held.flags | flag,
            ..*held
        };
        // EXIST: if it died meanwhile its entry is gone and must not come back
        self.held
            .insert(tgid, held, BPF_EXIST)
            .map_err(failed("HELD"))
    }

    /// Takes the seal off a process that is let go without secrets.
    pub(crate) fn unseal(&mut self, tgid: u32, seal: u64) {
        // The entry stays, void: only the kernel side can keep its filter's count right.
        if let Ok(sealed) = self.sealed.get(&tgid, 0)
            && sealed.seal == seal
        {
            let void = Sealed {
                flags: SEALED_VOID,
                ..sealed
            };
            let _ = self.sealed.insert(tgid, void, BPF_EXIST);
        }
        let _ = self.trees.remove(&seal);
    }

    /// The trees that live in a scope, by seal, and of each whether the process that the seal was
    /// given to is still in it.
    pub(crate) fn trees(&self, scope: ScopeId) -> BTreeMap<u64, bool> {
        let mut trees = BTreeMap::new();
        for (_, sealed) in self.sealed.iter().filter_map(Result::ok) {
            // A process's entry may outlast the process, its place in the tree's count does not.
            if sealed.scope == scope && self.trees.get(&sealed.seal, 0).is_ok() {
                *trees.entry(sealed.seal).or_default() |= sealed.flags & SEALED_ROOT != 0;
            }
        }
        trees
    }

    /// The secret directories of a scope, by device number.
    pub(crate) fn vaults(&self, scope: ScopeId) -> BTreeMap<u32, Vault> {
        self.choose_vaults(|vault| vault.scope == scope)
    }

    /// Those of all scopes whose programs have ended.
    pub(crate) fn ended_vaults(&self) -> BTreeMap<u32, Vault> {
        self.choose_vaults(|vault| self.trees.get(&vault.seal, 0).is_err())
    }

    fn choose_vaults(&self, chosen: impl Fn(&Vault) -> bool) -> BTreeMap<u32, Vault> {
        self.vaults
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, vault)| chosen(vault))
            .map(|(_, vault)| (vault.dev, vault))
            .collect()
    }

    /// From now on only the tree of `seal` opens files of the tmpfs that this agent makes.
    pub(crate) fn mount_for(&mut self, scope: ScopeId, seal: u64) -> Result<(), Error> {
        self.mounting
            .insert(scope, seal, 0)
            .map_err(failed("MOUNTING"))
    }

    /// What the kernel side counted for a scope.
    pub(crate) fn counters(&self, scope: ScopeId) -> Counters {
        self.counters.get(&scope, 0).unwrap_or_default()
    }
}

/// What an agent asks of the kernel side.
pub(crate) struct Wish<'a> {
    /// `SCOPE_*` bits.
    pub(crate) flags: u32,
    /// Base names of the programs to hold.
    pub(crate) names: BTreeSet<&'a [u8]>,
}

/// This process's place as the agent of its PID namespace. Given back with [`Claim::leave`]; when
/// the process just dies, the kernel side notices.
pub(crate) struct Claim {
    scope: ScopeId,
    flags: u32,
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
    rings: HashOfMaps<MapData, ScopeId, MapData>,
}

impl Books {
    fn open() -> Result<Self, Error> {
        Ok(Self {
            scopes: hash("SCOPES")?,
            name_filter: array("NAME_FILTER")?,
            bindings: hash("BINDINGS")?,
            all_execs: array("ALL_EXECS")?,
            counters: hash("COUNTERS")?,
            rings: HashOfMaps::try_from(Map::HashOfMaps(data("RINGS")?))
                .map_err(failed("RINGS"))?,
        })
    }

    fn want_name(&mut self, key: BindingKey, end: u64) -> Result<(), Error> {
        // In this order, and the other way round below: the filter must never be behind.
        self.count_name(end, 1)?;
        self.bindings
            .insert(key, end, 0)
            .map_err(failed("BINDINGS"))
    }

    fn drop_name(&mut self, key: &BindingKey) -> Result<(), Error> {
        let Some(end) = present("BINDINGS", self.bindings.get(key, 0))? else {
            return Ok(());
        };
        self.bindings.remove(key).map_err(failed("BINDINGS"))?;
        self.count_name(end, -1)
    }

    fn count_name(&mut self, end: u64, by: i32) -> Result<(), Error> {
        let slot = name::filter_slot(end);
        let bindings = self
            .name_filter
            .get(&slot, 0)
            .map_err(failed("NAME_FILTER"))?;
        self.name_filter
            .set(slot, bindings.saturating_add_signed(by), 0)
            .map_err(failed("NAME_FILTER"))
    }

    fn want_all_execs(&mut self, by: i32) -> Result<(), Error> {
        let wanted = self.all_execs.get(&0, 0).map_err(failed("ALL_EXECS"))?;
        self.all_execs
            .set(0, wanted.saturating_add_signed(by), 0)
            .map_err(failed("ALL_EXECS"))
    }

    /// What an agent that died left in the books under this scope.
    fn clear(&mut self, scope: ScopeId, left: Option<Scope>) -> Result<(), Error> {
        let stale: Vec<BindingKey> = self
            .bindings
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.scope == scope)
            .collect();
        for key in stale {
            self.drop_name(&key)?;
        }
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
        if left.is_some_and(|left| left.flags & SCOPE_ALL_EXECS != 0) {
            self.want_all_execs(-1)?;
        }
        Ok(())
    }
}

impl Claim {
    /// Becomes the agent of this process's PID namespace.
    pub(crate) fn stake(lock: &pins::Lock, wish: &Wish<'_>) -> Result<(Self, Ring), Error> {
        // The ring counts against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        pins::verify(lock)?;
        let scope = own_scope()?;
        let mut books = Books::open()?;
        let left = present("SCOPES", books.scopes.get(&scope, 0))?;
        if let Some(Scope {
            agent, agent_pid, ..
        }) = left
            && agent != 0
        {
            return Err(Error::ScopeTaken {
                scope,
                pid: agent_pid,
            });
        }
        books.clear(scope, left)?;

        let ring = MapData::create(
            aya_obj::Map::new_from_params(MAP_TYPE_RINGBUF, 0, 0, ring_bytes(), 0),
            "kernelseal",
            None,
        )
        .map_err(failed("ring"))?;
        books
            .rings
            .insert(scope, &ring, 0)
            .map_err(failed("RINGS"))?;
        let ring = RingBuf::try_from(Map::RingBuf(ring)).map_err(failed("ring"))?;
        books
            .counters
            .insert(scope, Counters::default(), 0)
            .map_err(failed("COUNTERS"))?;
        let mut claim = Self {
            scope,
            flags: wish.flags,
            names: Vec::new(),
            books,
        };
        // Last: from here on programs are held.
        let staked = enlist(scope, wish).and_then(|()| claim.write(wish));
        if let Err(e) = staked {
            let _ = claim.withdraw();
            return Err(e);
        }
        Ok((claim, Ring(ring)))
    }

    fn write(&mut self, wish: &Wish<'_>) -> Result<(), Error> {
        for name in &wish.names {
            let key = BindingKey::new(self.scope, name::hash(name));
            if !self.names.contains(&key) {
                self.names.push(key);
                self.books.want_name(key, name::end(name))?;
            }
        }
        if self.flags & SCOPE_ALL_EXECS != 0 {
            self.books.want_all_execs(1)?;
        }
        Ok(())
    }

    /// The PID namespace this agent answers for.
    pub(crate) fn scope(&self) -> ScopeId {
        self.scope
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
        if self.flags & SCOPE_ALL_EXECS != 0 {
            self.books.want_all_execs(-1)?;
        }
        let _ = self.books.rings.remove(&self.scope);
        let _ = self.books.counters.remove(&self.scope);
        if sealed == 0 {
            return self
                .books
                .scopes
                .remove(&self.scope)
                .map_err(failed("SCOPES"));
        }
        let scope = Scope {
            agent: 0,
            flags: self.flags & !SCOPE_ALL_EXECS,
            agent_pid: 0,
        };
        self.books
            .scopes
            .insert(self.scope, scope, 0)
            .map_err(failed("SCOPES"))
    }

    /// Undoes a stake that failed half-way.
    fn withdraw(&mut self) -> Result<(), Error> {
        for key in std::mem::take(&mut self.names) {
            self.books.drop_name(&key)?;
        }
        let _ = self.books.rings.remove(&self.scope);
        let _ = self.books.counters.remove(&self.scope);
        let _ = self.books.scopes.remove(&self.scope);
        Ok(())
    }
}

fn enlist(scope: ScopeId, wish: &Wish<'_>) -> Result<(), Error> {
    let failed = |e: ProgramError| Error::Load {
        what: "program enlist".into(),
        cause: e.to_string(),
    };
    let program = RawTracePoint::from_pin(pins::program(load::ENLIST)).map_err(failed)?;
    let mut options = RawTracePointRunOptions::new();
    let arguments = [scope, wish.flags, process::id()].map(u64::from);
    options.args[..arguments.len()].copy_from_slice(&arguments);
    let tgid = program.test_run(options).map_err(failed)?.return_value;
    if tgid == 0 {
        Err(Error::NotEnlisted)
    } else {
        Ok(())
    }
}

/// The PID namespace this process lives in.
pub(crate) fn own_scope() -> Result<ScopeId, Error> {
    let inode = fs::metadata("/proc/self/ns/pid")
        .map_err(Error::Namespace)?
        .ino();
    // Namespace inode numbers are 32 bits in the kernel (`ns_common.inum`).
    ScopeId::try_from(inode).map_err(|e| Error::Namespace(std::io::Error::other(e)))
}

fn ring_bytes() -> u32 {
    u32::try_from(RING_BYTES).expect("a constant below 4 GiB")
}
