//! The shared maps, opened from their pins.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use nix::unistd::gettid;
use sidecar_common::{
    policy::{
        BindingKey, Counters, Held, HeldFlags, Maker, Scope, ScopeId, Sealed, SealedFlags, Vault,
    },
    provenance::FileOrigin,
};

use super::{
    Error,
    contract::{self, MapDef, pinned},
    pins, prog_run,
};
use crate::util::error_chain;

/// `BPF_EXIST` (uapi/linux/bpf.h): change what is there, add nothing.
pub(super) const BPF_EXIST: u64 = 2;

pub(super) fn failed<E: std::error::Error + 'static>(
    name: &'static str,
) -> impl FnOnce(E) -> Error {
    move |cause| {
        Error::lack(format!("map {name}"), &cause).unwrap_or_else(|| Error::Map {
            name,
            cause: error_chain(&cause),
        })
    }
}

/// Opens the maps of one version's pins.
pub(super) struct Pinned<'a>(pub(super) &'a Path);

impl Pinned<'_> {
    pub(super) fn data(&self, name: &'static str) -> Result<MapData, Error> {
        MapData::from_pin(pins::map(self.0, name)).map_err(failed(name))
    }

    pub(super) fn hash<K: Pod, V: Pod>(
        &self,
        map: &MapDef<K, V>,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        HashMap::try_from(Map::HashMap(self.data(map.name)?)).map_err(failed(map.name))
    }

    pub(super) fn array<V: Pod>(&self, map: &MapDef<u32, V>) -> Result<Array<MapData, V>, Error> {
        Array::try_from(Map::Array(self.data(map.name)?)).map_err(failed(map.name))
    }
}

/// A value, or `None` where the map has no such key.
pub(super) fn present<V>(
    name: &'static str,
    value: Result<V, MapError>,
) -> Result<Option<V>, Error> {
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
    image_only: HashMap<MapData, u64, u8>,
    held: HashMap<MapData, u32, Held>,
    vaults: HashMap<MapData, u64, Vault>,
    mounting: HashMap<MapData, Maker, u64>,
    counters: HashMap<MapData, ScopeId, Counters>,
    bindings: HashMap<MapData, BindingKey, u64>,
}

impl Maps {
    /// Opens the pinned maps.
    pub(crate) fn open() -> Result<Self, Error> {
        Self::open_at(&pins::dir())
    }

    /// Opens those of another version, of the same shapes or not at all.
    pub(crate) fn open_at(dir: &Path) -> Result<Self, Error> {
        let pinned = Pinned(dir);
        Ok(Self {
            scopes: pinned.hash(&pinned::SCOPE_LEASES)?,
            sealed: pinned.hash(&pinned::SEALED)?,
            trees: pinned.hash(&pinned::TREES)?,
            image_only: pinned.hash(&pinned::IMAGE_ONLY)?,
            held: pinned.hash(&pinned::HELD)?,
            vaults: pinned.hash(&pinned::VAULTS)?,
            mounting: pinned.hash(&pinned::MOUNTING)?,
            counters: pinned.hash(&pinned::COUNTERS)?,
            bindings: pinned.hash(&pinned::BINDINGS)?,
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

    /// An agent of this scope, by its number in it, has ended; the kernel side may have missed that. To be called
    /// under the pins' lock.
    pub(crate) fn end_agent(&mut self, id: ScopeId, pid: u32) -> Result<(), Error> {
        match self.scope(id) {
            Some(scope) if scope.agent != 0 && scope.agent_pid == pid => {
                let left = Scope { agent: 0, ..scope };
                let ended = self.scopes.insert(id, left, BPF_EXIST);
                ended.map_err(failed(pinned::SCOPE_LEASES.name))
            }
            _ => Ok(()),
        }
    }

    /// Whether anything goes on under these maps: an agent that lives, a program that is sealed or held,
    /// a name that is watched or, its agent being dead, refused.
    pub(crate) fn are_in_use(&self) -> bool {
        let has_agent = self.scopes().iter().any(|(_, scope)| scope.agent != 0);
        let mut names = self.bindings.keys().filter_map(Result::ok);
        let has_names = names.any(|key| self.scope(key.scope).is_some());
        // (processes come and go while they are counted; a tree's entry stays while it has any)
        let has_trees = self.trees.keys().any(|seal| seal.is_ok());
        let has_held = self.held.keys().any(|held| held.is_ok());
        has_agent || has_names || has_trees || has_held || self.sealed() > 0
    }

    /// How many processes are under seal, agents not counted.
    pub(crate) fn sealed(&self) -> usize {
        self.count_sealed(|_| true)
    }

    /// The same, in one scope.
    pub(crate) fn sealed_in(&self, scope: ScopeId) -> usize {
        self.count_sealed(|sealed| sealed.scope == scope)
    }

    /// When each process under seal started, in any scope: on the boot clock, in nanoseconds.
    pub(crate) fn sealed_starts(&self) -> impl Iterator<Item = u64> {
        self.under_seal().map(|sealed| sealed.start_ns)
    }

    fn count_sealed(&self, chosen: impl Fn(&Sealed) -> bool) -> usize {
        self.under_seal().filter(chosen).count()
    }

    fn under_seal(&self) -> impl Iterator<Item = Sealed> {
        let is_none = SealedFlags::AGENT | SealedFlags::EXECING | SealedFlags::VOID;
        let entries = self.sealed.iter().filter_map(Result::ok);
        entries
            .map(|(_, sealed)| sealed)
            .filter(move |sealed| !sealed.flags.intersects(is_none))
    }

    /// A held program.
    pub(crate) fn held(&self, tgid: u32) -> Result<Option<Held>, Error> {
        present(pinned::HELD.name, self.held.get(&tgid, 0))
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
                Err(failed(pinned::HELD.name)(e))
            }
            _ => Ok(()),
        }
    }

    /// The same, unless the number is another's, or it has executed another program since; whether it was there.
    pub(crate) fn forget_if(&mut self, tgid: u32, held: &Held) -> bool {
        matches!(self.held(tgid), Ok(Some(now)) if now.seal == held.seal)
            && self.held.remove(&tgid).is_ok()
    }

    /// A program that is coming is to start without secrets.
    pub(crate) fn waive(&mut self, tgid: u32, held: &Held) -> Result<(), Error> {
        let is_still =
            |now: &Held| now.seal == held.seal && now.flags.contains(HeldFlags::PRE_EXEC);
        if !self.held(tgid)?.as_ref().is_some_and(is_still) {
            return Err(failed(pinned::HELD.name)(MapError::KeyNotFound));
        }
        let held = Held {
            flags: held.flags | HeldFlags::WAIVED,
            ..*held
        };
        // EXIST: if it died meanwhile its entry is gone and must not come back
        self.held
            .insert(tgid, held, BPF_EXIST)
            .map_err(failed(pinned::HELD.name))
    }

    /// A held program was given its secrets, and goes its way: from here on it is of its new tree alone. An error if it is
    /// not held any more: the watchdog may have taken its seal off.
    pub(crate) fn finish_delivery(&mut self, tgid: u32, held: &Held) -> Result<(), Error> {
        // (as nearly all)
        if held.earlier_seal == 0 {
            return self.held.remove(&tgid).map_err(failed(pinned::HELD.name));
        }
        match prog_run::run(contract::SETTLE, &[tgid.into()])? {
            0 => Err(failed(pinned::HELD.name)(MapError::KeyNotFound)),
            _ => Ok(()),
        }
    }

    /// Whether an open file of ours is the script that was executed when that seal was given.
    pub(crate) fn is_executed(file: BorrowedFd<'_>, seal: u64) -> Result<bool, Error> {
        let number = file.as_raw_fd().cast_unsigned();
        Ok(prog_run::run(contract::IS_EXECUTED, &[number.into(), seal])? == 1)
    }

    /// Where a file of ours comes from, of a process with that root, in the mount namespace of
    /// that number.
    pub(crate) fn provenance(
        file: BorrowedFd<'_>,
        root: BorrowedFd<'_>,
        namespace: u32,
    ) -> Result<FileOrigin, Error> {
        let number = |fd: BorrowedFd<'_>| u64::from(fd.as_raw_fd().cast_unsigned());
        let arguments = [number(file), number(root), namespace.into()];
        prog_run::run(contract::PROVENANCE, &arguments).map(FileOrigin::from_bits_retain)
    }

    /// From here on a tree runs nothing but what is in its image, until it ends.
    pub(crate) fn keep_to_image(&mut self, seal: u64) -> Result<(), Error> {
        self.image_only
            .insert(seal, 1, 0)
            .map_err(failed(pinned::IMAGE_ONLY.name))
    }

    /// Takes the seal off a process that is let go without secrets. One that it had before is its again: what it was
    /// given then may be in its environment.
    pub(crate) fn unseal(&mut self, tgid: u32, held: &Held) {
        // The entry stays, void: only the kernel side can keep its filter's count right.
        if let Ok(sealed) = self.sealed.get(&tgid, 0)
            && sealed.seal == held.seal
        {
            let after = if held.earlier_seal == 0 {
                Sealed {
                    flags: SealedFlags::VOID,
                    ..sealed
                }
            } else {
                Sealed {
                    seal: held.earlier_seal,
                    scope: held.earlier_scope,
                    flags: held.earlier_flags,
                    ..sealed
                }
            };
            let _ = self.sealed.insert(tgid, after, BPF_EXIST);
        }
        let _ = self.trees.remove(&held.seal);
    }

    /// The trees that live in a scope, by seal, and of each whether the process that the seal was
    /// given to is still in it.
    pub(crate) fn trees(&self, scope: ScopeId) -> BTreeMap<u64, bool> {
        let mut trees = BTreeMap::new();
        for (_, sealed) in self.sealed.iter().filter_map(Result::ok) {
            // A process's entry may outlast the process, its place in the tree's count does not.
            if sealed.scope == scope && !self.is_tree_gone(sealed.seal) {
                *trees.entry(sealed.seal).or_default() |= sealed.flags.contains(SealedFlags::ROOT);
            }
        }
        // What is held is of the tree, too, that it was of before.
        for (_, held) in self.held.iter().filter_map(Result::ok) {
            if held.earlier_seal != 0 && held.earlier_scope == scope {
                *trees.entry(held.earlier_seal).or_default() |=
                    held.earlier_flags.contains(SealedFlags::ROOT);
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
        self.choose_vaults(|vault| self.is_tree_gone(vault.seal))
    }

    /// Whether a tree is known to have nobody any more. An error is no answer.
    pub(crate) fn is_tree_gone(&self, seal: u64) -> bool {
        matches!(self.trees.get(&seal, 0), Err(MapError::KeyNotFound))
    }

    fn choose_vaults(&self, chosen: impl Fn(&Vault) -> bool) -> BTreeMap<u32, Vault> {
        self.vaults
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, vault)| chosen(vault))
            .map(|(_, vault)| (vault.dev, vault))
            .collect()
    }

    /// From now on only the tree of `seal` opens files of the tmpfs that this thread of the scope's agent makes.
    pub(crate) fn mount_for(&mut self, scope: ScopeId, seal: u64) -> Result<(), Error> {
        let thread = gettid().as_raw().cast_unsigned();
        self.mounting
            .insert(Maker { scope, thread }, seal, 0)
            .map_err(failed(pinned::MOUNTING.name))
    }

    /// What the kernel side counted for a scope.
    pub(crate) fn counters(&self, scope: ScopeId) -> Counters {
        self.counters.get(&scope, 0).unwrap_or_default()
    }
}
