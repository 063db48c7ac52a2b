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
        let mut living = self.maps.trees(self.scope);
        living.retain(|seal, _| self.share.has(*seal));
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
        self.adoption = match process::all() {
            Ok(processes) => Some(Adoption {
                processes: processes.collect(),
                ended: 0,
            }),
            Err(e) => {
                tracing::error!("secret files of an earlier agent are not looked for: {e}");
                None
            }
        };
    }

    /// Looks for the files of what was adopted, and of what has ended, where another process sees them: in one mount namespace
    /// at most, for a list of mounts may be long. Others are delivered to in between.
    pub(super) fn adopt_some(&mut self) {
        let Some(mut adoption) = self.adoption.take() else {
            return;
        };
        let mut found = Vec::new();
        let mut has_looked = false;
        while !has_looked && let Some(pid) = adoption.processes.pop() {
            if !self.mounter.is_new_view(pid) {
                continue;
            }
            has_looked = true;
            // (as it is now: a number may be another's, ours for one)
            let mut owners = self.maps.vaults(self.scope);
            owners.retain(|_, owner| self.share.has(owner.seal));
            found = find_vaults(&mut self.mounter, pid, &owners);
        }
        for (seal, vault) in found {
            match self.trees.get_mut(&seal) {
                // what we delivered ourselves meanwhile
                Some(tree) if tree.vaults.iter().any(|known| known.is_same(&vault)) => {
                    self.mounter.forget(&vault);
                }
                // of an agent that was killed over it, and delivered to anew
                Some(tree) if tree.memory.is_some() => self.clean([vault]),
                Some(tree) => {
                    tree.vaults.push(vault);
                    // What is kept for who had a replaced file open is wiped by us.
                    self.wipe_old_later(seal);
                }
                // (or held, to be delivered to anew)
                None => {
                    adoption.ended += 1;
                    self.clean([vault]);
                }
            }
        }
        if !adoption.processes.is_empty() {
            self.adoption = Some(adoption);
            return;
        }
        let adopted = self.trees.values().filter(|tree| tree.memory.is_none());
        let (adopted, ended) = (adopted.count(), adoption.ended);
        if adopted + ended > 0 {
            tracing::info!(
                adopted,
                ended,
                "adopted the sealed programs of the previous agent"
            );
        }
        // (a source may have changed meanwhile)
        self.rotate();
    }
}

/// What is still to be looked at for files of an agent before us.
pub(super) struct Adoption {
    processes: Vec<u32>,
    /// Folders of what has ended.
    ended: usize,
}

/// The files of programs that have ended, taken away where no agent will do it.
pub(crate) struct TakenAway(Vec<OpenVault>);

impl TakenAway {
    /// Takes them away, while they are guarded: from then on no path leads there.
    pub(crate) fn from_everywhere(owners: &BTreeMap<u32, VaultOwner>) -> io::Result<Self> {
        let mut mounter = Mounter::new(1)?;
        let mut taken_away = Vec::new();
        for pid in process::all()? {
            if !mounter.is_new_view(pid) {
                continue;
            }
            for (_, vault) in find_vaults(&mut mounter, pid, owners) {
                // One that cannot be taken away does not keep the others from it.
                match mounter.remove(&vault) {
                    Ok(opened) => taken_away.push(opened),
                    Err(e) => tracing::warn!("secret files could not be taken away: {e}"),
                }
                mounter.forget(&vault);
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

/// Looks for secret directories where a process sees them; each with its seal.
fn find_vaults(
    mounter: &mut Mounter,
    pid: u32,
    owners: &BTreeMap<u32, VaultOwner>,
) -> Vec<(u64, Vault)> {
    if owners.is_empty() {
        return Vec::new();
    }
    let found = mounter.find_all(pid, |dev| owners.contains_key(&dev));
    if let Err(e) = &found {
        tracing::warn!(
            pid,
            "not all secret directories that it sees are found: {e}"
        );
    }
    let found = found.into_iter().flatten();
    found
        .filter_map(|(dev, vault)| Some((owners.get(&dev)?.seal, vault)))
        .collect()
}
