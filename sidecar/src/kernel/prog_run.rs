//! What only the kernel can tell an agent: pinned programs that are attached nowhere and run for their
//! answer (`BPF_PROG_TEST_RUN`).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _};
use sidecar_common::layout::MAX_CGROUP_LEVELS;

use super::{
    Error,
    contract::{self, pinned},
    maps::{Pinned, failed},
    pins,
};
use crate::util::error_chain;

/// Runs one in the context of the calling thread.
pub(super) fn run(name: &'static str, arguments: &[u64]) -> Result<u32, Error> {
    let failed = |e: ProgramError| {
        let what = format!("program {name}");
        Error::lack(what.clone(), &e).unwrap_or_else(|| Error::Load {
            what,
            cause: error_chain(&e),
        })
    };
    let program = RawTracePoint::from_pin(pins::program(&pins::dir(), name)).map_err(failed)?;
    let mut options = RawTracePointRunOptions::new();
    options.args[..arguments.len()].copy_from_slice(arguments);
    let answer = program.test_run(options).map_err(failed)?;
    Ok(answer.return_value)
}

/// Our own control group, from the machine's root. A control group namespace hides it from `/proc`. All
/// agents are answered in one place: hence the lock.
pub(crate) fn own_cgroup(_lock: &pins::Lock) -> Result<PathBuf, Error> {
    let answer = Pinned(&pins::dir()).array(&pinned::CGROUP_NAME)?;
    let mut names = Vec::new();
    for above in 0..MAX_CGROUP_LEVELS {
        let length = run(contract::OWN_CGROUP, &[above.into()])? as usize;
        let name = answer
            .get(&0, 0)
            .map_err(failed(pinned::CGROUP_NAME.name))?;
        // (the root's is empty)
        match name.get(..length.saturating_sub(1)) {
            Some([]) | None => break,
            Some(name) => names.push(OsStr::from_bytes(name).to_owned()),
        }
    }
    let root = Path::new("/").to_owned();
    Ok(names.iter().rev().fold(root, |path, name| path.join(name)))
}
