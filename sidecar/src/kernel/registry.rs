//! The registry of a node's agents: which scope has one, which names each asks for, and what the kernel side keeps for it.

use std::path::Path;

use aya::maps::{Array, HashMap, HashOfMaps, Map, MapData, MapError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use sidecar_common::{
    name,
    policy::{BindingKey, Counters, Maker, RingKey, Scope, ScopeFlags, ScopeId},
};

use super::{
    Error,
    contract::pinned,
    maps::{BPF_EXIST, Pinned, failed, present},
};

/// The maps that say who asks for which name. Changed under the pins' lock only.
pub(super) struct Registry {
    pub(super) scopes: HashMap<MapData, ScopeId, Scope>,
    name_filter: Array<MapData, u32>,
    /// With each name's last bytes, by which it is counted in the filter.
    bindings: HashMap<MapData, BindingKey, u64>,
    all_execs: Array<MapData, u32>,
    pub(super) counters: HashMap<MapData, ScopeId, Counters>,
    rings: HashOfMaps<MapData, RingKey, MapData>,
    mounting: HashMap<MapData, Maker, u64>,
}

impl Registry {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
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

    /// Enters the rings of a scope's agent, by which it hears of its programs. The classes of seals are shared out among them. The first
    /// ring's classes get no entry (a missing one means the first ring), because each insert into this map of maps waits for an RCU
    /// grace period.
    pub(super) fn give_rings(&mut self, scope: ScopeId, rings: &[MapData]) -> Result<(), Error> {
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
    pub(super) fn drop_of_agent(&mut self, scope: ScopeId) {
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

    pub(super) fn want_name(&mut self, key: BindingKey, end: u64) -> Result<(), Error> {
        // In this order, and the other way round below: the filter must never be behind.
        self.count_name(end, 1)?;
        self.bindings
            .insert(key, end, 0)
            .map_err(failed(pinned::BINDINGS.name))
    }

    pub(super) fn is_wanted(&self, key: &BindingKey) -> Result<bool, Error> {
        Ok(present(pinned::BINDINGS.name, self.bindings.get(key, 0))?.is_some())
    }

    pub(super) fn drop_name(&mut self, key: &BindingKey) -> Result<(), Error> {
        let Some(end) = present(pinned::BINDINGS.name, self.bindings.get(key, 0))? else {
            return Ok(());
        };
        self.bindings
            .remove(key)
            .map_err(failed(pinned::BINDINGS.name))?;
        self.count_name(end, -1)
    }

    pub(super) fn count_name(&mut self, end: u64, by: i32) -> Result<(), Error> {
        let slot = name::filter_slot(end);
        let bindings = self
            .name_filter
            .get(&slot, 0)
            .map_err(failed(pinned::NAME_FILTER.name))?;
        self.name_filter
            .set(slot, bindings.saturating_add_signed(by), 0)
            .map_err(failed(pinned::NAME_FILTER.name))
    }

    pub(super) fn want_all_execs(&mut self, by: i32) -> Result<(), Error> {
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
    pub(super) fn left_in(&self, scope: ScopeId) -> Result<Option<Scope>, Error> {
        let left = present(pinned::SCOPE_LEASES.name, self.scopes.get(&scope, 0))?;
        match left {
            Some(left) if left.agent != 0 && lives(left.agent_pid) => Err(Error::ScopeTaken {
                scope,
                pid: left.agent_pid,
            }),
            left => Ok(left.map(|left| Scope { agent: 0, ..left })),
        }
    }

    /// The names that are registered under a scope.
    pub(super) fn names_of(&self, scope: ScopeId) -> Vec<BindingKey> {
        self.bindings
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.scope == scope)
            .collect()
    }

    /// Everything that an agent that died left registered under this scope.
    pub(super) fn clear(&mut self, scope: ScopeId) -> Result<(), Error> {
        self.tidy(scope)?;
        for key in self.names_of(scope) {
            self.drop_name(&key)?;
        }
        Ok(())
    }

    /// The same but for its names, whose programs stay refused until the next agent holds them.
    pub(super) fn tidy(&mut self, scope: ScopeId) -> Result<Option<Scope>, Error> {
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
