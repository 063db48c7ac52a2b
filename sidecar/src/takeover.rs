//! Other versions' kernel sides, from agents before this one: what is sealed under one stays guarded by
//! it, what is held is ended, and it goes with its last program.
//!
//! Two versions share the shapes of the maps that are opened here, or the name of one differs: then this
//! version leaves the other alone and says so. The other refuses what it watched for an agent that is
//! gone, so that nothing starts unguarded.

use std::path::PathBuf;

use sidecar_common::policy::ScopeId;

use crate::{
    kernel::{self, Error, Maps, pins},
    seal::TakenAway,
};

/// Those that are there.
pub(crate) struct Others(Vec<(PathBuf, Maps)>);

impl Others {
    /// Looks for them. One that has an agent for this scope is an error: two would hold the same programs. So is one about which
    /// too few descriptors or too little memory leave that unknown.
    pub(crate) fn find(scope: ScopeId, lock: &pins::Lock) -> Result<Self, Error> {
        let mut found = Vec::new();
        for dir in pins::others()? {
            let opened = kernel::ensure_free(&dir, scope, lock).and_then(|()| Maps::open_at(&dir));
            match opened {
                Ok(maps) => found.push((dir, maps)),
                Err(e @ (Error::ScopeTaken { .. } | Error::Lack { .. })) => return Err(e),
                Err(e) => tracing::warn!(
                    "{} is another version's kernel side, which this version cannot read ({e}). It guards what it sealed; programs it watched for an agent that is gone are refused. Run `kernelseal cleanup` when its programs have ended",
                    dir.display()
                ),
            }
        }
        Ok(Self(found))
    }

    /// Takes the scope over. To be called when its programs are held by us: in between, both hold.
    pub(crate) fn hand_over(&self, scope: ScopeId, lock: &pins::Lock) -> Result<(), Error> {
        for (dir, _) in &self.0 {
            kernel::hand_over(dir, scope, lock)?;
        }
        Ok(())
    }

    /// Removes those under which nothing goes on any more, and the files of what has ended under them.
    pub(crate) fn retire(self, lock: &pins::Lock) -> Result<Vec<Maps>, Error> {
        let mut in_use = Vec::new();
        for (dir, maps) in self.0 {
            if maps.are_in_use() {
                tracing::info!(
                    "{}: programs that an earlier version sealed still run",
                    dir.display()
                );
                in_use.push(maps);
                continue;
            }
            let taken_away = TakenAway::from_everywhere(&maps.ended_vaults());
            pins::remove(&dir, lock)?;
            tracing::info!("{}: removed: its last program has ended", dir.display());
            if let Err(e) = taken_away.and_then(TakenAway::wipe) {
                tracing::warn!("secret files of programs that have ended: {e}");
            }
        }
        Ok(in_use)
    }
}
