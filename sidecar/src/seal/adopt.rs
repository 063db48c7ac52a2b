//! What an agent before us sealed: its trees and their files are ours from here on.
//!
//! The kernel side's maps tell which trees live and which file systems are theirs. Where those are
//! mounted, the mounts of every process we see tell: a file system's device number is the same for
//! all of us, a process's number is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    thread,
    time::Duration,
};

use sidecar_common::policy::Vault as VaultOwner;

use super::{
    Tree, Work,
    deliver_file::{Mounter, OpenVault, Vault},
};
use crate::process;

impl Work {
    /// Takes over what lives, and takes away the files of what ended while no agent was there.
    pub(super) fn adopt(&mut self) {
        let living = self.maps.trees(self.scope);
        // What is held is delivered to anew; read last, for more may be held by now.
        let held: BTreeSet<u64> = self
            .maps
            .all_held(self.scope)
            .into_iter()
            .map(|(_, held)| held.seal)
            .collect();
        for (seal, has_root) in living {
            if !held.contains(&seal) {
                self.metrics.sealed_processes.add(i64::from(has_root));
                let tree = Tree {
                    process: None,
                    has_root,
                    place: Arc::default(),
                    memory: None,
                    vaults: Vec::new(),
                };
                self.trees.insert(seal, tree);
            }
        }
        let owners = self.maps.vaults(self.scope);
        let mut ended = Vec::new();
        for (seal, vault) in find_vaults(&mut self.mounter, &owners) {
            match self.trees.get_mut(&seal) {
                Some(tree) => tree.vaults.push(vault),
                None => ended.push(vault),
            }
        }
        // What is kept for who had a replaced file open is wiped by us.
        let replaced = self
            .trees
            .iter()
            .filter(|(_, tree)| !tree.vaults.is_empty());
        let replaced: Vec<u64> = replaced.map(|(seal, _)| *seal).collect();
        for seal in replaced {
            self.wipe_old_later(seal);
        }
        if !(self.trees.is_empty() && ended.is_empty()) {
            tracing::info!(
                adopted = self.trees.len(),
                ended = ended.len(),
                "an agent before this one left what it had sealed"
            );
        }
        self.clean(ended);
    }
}

/// The files of programs that have ended, taken away where no agent will do it.
pub(crate) struct TakenAway(Vec<OpenVault>);

impl TakenAway {
    /// Takes them away, while they are guarded: from then on no path leads there.
    pub(crate) fn from_everywhere(owners: &BTreeMap<u32, VaultOwner>) -> io::Result<Self> {
        let mut mounter = Mounter::new()?;
        let vaults = find_vaults(&mut mounter, owners);
        let mut taken_away = Vec::with_capacity(vaults.len());
        for (_, vault) in &vaults {
            // One that cannot be taken away does not keep the others from it.
            match mounter.remove(vault) {
                Ok(opened) => taken_away.push(opened),
                Err(e) => tracing::warn!("secret files could not be taken away: {e}"),
            }
        }
        Ok(Self(taken_away))
    }

    /// Wipes them. To be called when nothing is guarded any more: an agent alone opens what is.
    pub(crate) fn wipe(self) -> io::Result<()> {
        /// Hooks go a moment after their pins; on a busy machine it was seen to take more than a second.
        const TRIES: u32 = 3000;
        const STEP: Duration = Duration::from_millis(10);
        let mut done = Ok(());
        for vault in self.0 {
            let mut wiped = vault.wipe();
            for _ in 0..TRIES {
                match &wiped {
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        thread::sleep(STEP);
                        wiped = vault.wipe();
                    }
                    _ => break,
                }
            }
            done = done.and(wiped);
        }
        done
    }
}

/// Looks for secret directories wherever a process sees one; each with its seal.
fn find_vaults(mounter: &mut Mounter, owners: &BTreeMap<u32, VaultOwner>) -> Vec<(u64, Vault)> {
    let mut found = Vec::new();
    if owners.is_empty() {
        return found;
    }
    let processes = process::all();
    if let Err(e) = &processes {
        tracing::warn!("secret directories cannot be looked for: {e}");
    }
    for pid in processes.into_iter().flatten() {
        match mounter.find_all(pid, |dev| owners.contains_key(&dev)) {
            Ok(vaults) => found.extend(
                vaults
                    .into_iter()
                    .filter_map(|(dev, vault)| Some((owners.get(&dev)?.seal, vault))),
            ),
            Err(e) => {
                tracing::warn!(
                    pid,
                    "not all secret directories that it sees are found: {e}"
                );
            }
        }
    }
    found
}
