//! One agent's lease of a scope of the shared kernel side, with its rings.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path, process};

use aya::maps::{Map, MapData, RingBuf};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sidecar_common::{
    layout::{RING_BYTES, RING_BYTES_LEAST},
    name,
    policy::{BindingKey, Counters, Scope, ScopeFlags, ScopeId},
};

use super::{
    Error, Ring,
    contract::{self, pinned},
    libraries,
    maps::{BPF_EXIST, failed, present},
    own_objects, pins, prog_run,
    registry::Registry,
};

/// The kernel's number of the ring buffer's map type (`BPF_MAP_TYPE_RINGBUF`).
const MAP_TYPE_RINGBUF: u32 = 27;

/// What an agent asks of the kernel side.
pub(crate) struct ScopeRequest<'a> {
    /// What holds there.
    pub(crate) flags: ScopeFlags,
    /// Base names of the programs to hold.
    pub(crate) names: BTreeSet<&'a [u8]>,
    /// Whether there are programs among them that run nothing but what is in their image.
    pub(crate) has_image_only: bool,
}

/// This process's place as the agent of its PID namespace. Given back with [`ScopeLease::leave`]; when
/// the process just dies, the kernel side notices.
pub(crate) struct ScopeLease {
    scope: ScopeId,
    flags: ScopeFlags,
    names: Vec<BindingKey>,
    registry: Registry,
}

/// Makes sure that the scope has no agent under another version's kernel side.
pub(crate) fn ensure_free(dir: &Path, scope: ScopeId, _lock: &pins::Lock) -> Result<(), Error> {
    Registry::open(dir)?.left_in(scope).map(drop)
}

/// Takes the scope out of another version's registry: from here on that one holds no program of it.
/// What it sealed it guards on.
pub(crate) fn hand_over(dir: &Path, scope: ScopeId, _lock: &pins::Lock) -> Result<(), Error> {
    Registry::open(dir)?.clear(scope)
}

impl ScopeLease {
    /// Becomes the agent of this process's PID namespace.
    /// Its rings are as many as `workers`, which is one to [`sidecar_common::layout::MAX_WORKERS`]: the delivering threads.
    pub(crate) fn acquire(
        lock: &pins::Lock,
        request: &ScopeRequest<'_>,
        workers: usize,
    ) -> Result<(Self, Vec<Ring>), Error> {
        // The ring counts against this limit before 5.11.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        pins::verify(lock)?;
        if request.has_image_only {
            libraries::attach(lock)?;
        }
        let scope = own_scope()?;
        let mut registry = Registry::open(&pins::dir())?;
        let left = registry.tidy(scope)?;
        let stale = registry.names_of(scope);

        // (its threads have other numbers)
        registry.drop_of_agent(scope);
        let bytes = (RING_BYTES / workers.next_power_of_two()).max(RING_BYTES_LEAST);
        let rings: Vec<MapData> = (0..workers)
            .map(|_| new_ring(bytes))
            .collect::<Result<_, _>>()?;
        registry.give_rings(scope, &rings)?;
        let rings = rings.into_iter().map(|ring| {
            let ring = RingBuf::try_from(Map::RingBuf(ring));
            ring.map(|ring| Ring::new(ring, bytes))
        });
        let rings = rings.collect::<Result<_, _>>().map_err(failed("ring"))?;
        registry
            .counters
            .insert(scope, Counters::default(), 0)
            .map_err(failed(pinned::COUNTERS.name))?;
        let mut lease = Self {
            scope,
            flags: request.flags,
            names: Vec::new(),
            registry,
        };
        // Last: from here on programs are held.
        let acquired = register_agent(scope, request)
            .and_then(|()| lease.write(request))
            .and_then(|()| lease.drop_all_but_ours(&stale))
            .and_then(|()| lease.want_all_execs());
        if let Err(e) = acquired {
            let _ = lease.withdraw(left);
            return Err(e);
        }
        Ok((lease, rings))
    }

    fn write(&mut self, request: &ScopeRequest<'_>) -> Result<(), Error> {
        for name in &request.names {
            let key = BindingKey::new(self.scope, name::hash(name));
            if !self.names.contains(&key) {
                if !self.registry.is_wanted(&key)? {
                    self.registry.want_name(key, name::end(name))?;
                }
                self.names.push(key);
            }
        }
        Ok(())
    }

    fn want_all_execs(&mut self) -> Result<(), Error> {
        if self.flags.contains(ScopeFlags::ALL_EXECS) {
            self.registry.want_all_execs(1)?;
        }
        Ok(())
    }

    /// Of the names an agent before us left, those that are not ours.
    fn drop_all_but_ours(&mut self, stale: &[BindingKey]) -> Result<(), Error> {
        for key in stale.iter().filter(|key| !self.names.contains(key)) {
            self.registry.drop_name(key)?;
        }
        Ok(())
    }

    /// The PID namespace this agent answers for.
    pub(crate) fn scope(&self) -> ScopeId {
        self.scope
    }

    /// From here on by another request. Nothing that both ask for is let go in between.
    pub(crate) fn renew(
        &mut self,
        lock: &pins::Lock,
        request: &ScopeRequest<'_>,
    ) -> Result<(), Error> {
        if request.has_image_only {
            libraries::attach(lock)?;
        }
        let before = std::mem::take(&mut self.names);
        let renewed = self
            .write(request)
            .and_then(|()| self.adopt_flags(request.flags));
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
            self.registry.scopes.get(&self.scope, 0),
        )?;
        let scope = scope.ok_or(Error::NotEnlisted)?;
        let wants = |flags: ScopeFlags| i32::from(flags.contains(ScopeFlags::ALL_EXECS));
        match wants(flags) - wants(self.flags) {
            0 => {}
            by => self.registry.want_all_execs(by)?,
        }
        self.flags = flags;
        let changed = self
            .registry
            .scopes
            .insert(self.scope, Scope { flags, ..scope }, BPF_EXIST);
        changed.map_err(failed(pinned::SCOPE_LEASES.name))
    }

    /// No new program is held from here on.
    pub(crate) fn stop_holding(&mut self, _lock: &pins::Lock) -> Result<(), Error> {
        for key in std::mem::take(&mut self.names) {
            self.registry.drop_name(&key)?;
        }
        Ok(())
    }

    /// Leaves the scope to a later agent. What is sealed stays sealed.
    pub(crate) fn leave(mut self, lock: &pins::Lock, sealed: usize) -> Result<(), Error> {
        self.stop_holding(lock)?;
        if self.flags.contains(ScopeFlags::ALL_EXECS) {
            self.registry.want_all_execs(-1)?;
        }
        self.registry.drop_of_agent(self.scope);
        if sealed == 0 {
            return self
                .registry
                .scopes
                .remove(&self.scope)
                .map_err(failed(pinned::SCOPE_LEASES.name));
        }
        let scope = present(
            pinned::SCOPE_LEASES.name,
            self.registry.scopes.get(&self.scope, 0),
        )?;
        let scope = Scope {
            agent: 0,
            flags: self.flags & !ScopeFlags::ALL_EXECS,
            agent_pid: 0,
            ..scope.ok_or(Error::NotEnlisted)?
        };
        self.registry
            .scopes
            .insert(self.scope, scope, BPF_EXIST)
            .map_err(failed(pinned::SCOPE_LEASES.name))
    }

    /// Undoes an acquisition that failed half-way: where an agent before us had left the scope, its names stay
    /// refused.
    fn withdraw(&mut self, left: Option<Scope>) -> Result<(), Error> {
        self.registry.drop_of_agent(self.scope);
        if let Some(left) = left {
            let put_back = self.registry.scopes.insert(self.scope, left, 0);
            return put_back.map_err(failed(pinned::SCOPE_LEASES.name));
        }
        for key in std::mem::take(&mut self.names) {
            self.registry.drop_name(&key)?;
        }
        let _ = self.registry.scopes.remove(&self.scope);
        Ok(())
    }
}

fn register_agent(scope: ScopeId, request: &ScopeRequest<'_>) -> Result<(), Error> {
    let arguments = [scope, request.flags.bits(), process::id()].map(u64::from);
    match prog_run::run(contract::ENLIST, &arguments)? {
        0 => Err(Error::NotEnlisted),
        _ => Ok(()),
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
