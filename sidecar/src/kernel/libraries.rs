//! The hook that all mappings of files come through: attached where an agent has a binding that asks for it, and then until the
//! kernel side is removed.

use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::{
    Lsm,
    links::{FdLink, PinnedLink},
};

use super::{Error, contract, load::chain, own_objects, pins};

/// Whether this agent has asked for it.
static IS_ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Attaches it, unless some agent has done so before.
pub(super) fn attach(_lock: &pins::Lock) -> Result<(), Error> {
    let path = pins::link(contract::MMAP_FILE);
    if !path.exists() {
        let failed = |e: &dyn std::error::Error| Error::Load {
            what: format!("program {}", contract::MMAP_FILE),
            cause: chain(e),
        };
        let program = pins::program(&pins::dir(), contract::MMAP_FILE);
        let mut program = Lsm::from_pin(program).map_err(|e| failed(&e))?;
        let link = program.attach().and_then(|id| program.take_link(id));
        let link = FdLink::from(link.map_err(|e| failed(&e))?);
        own_objects::note_link(contract::MMAP_FILE, &link)?;
        link.pin(path).map_err(|e| failed(&e))?;
    }
    IS_ASKED_FOR.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether it is there, if this agent has asked for it.
pub(super) fn ensure_attached() -> Result<(), Error> {
    if !IS_ASKED_FOR.load(Ordering::Relaxed) {
        return Ok(());
    }
    let path = pins::link(contract::MMAP_FILE);
    match PinnedLink::from_pin(&path) {
        Ok(_) => Ok(()),
        Err(e) => Err(pins::incomplete(path, &e)),
    }
}
