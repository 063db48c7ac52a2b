//! A secret's bytes, and the care they are given: never swapped, never dumped, wiped when dropped.

use nix::{
    errno::Errno,
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl,
        resource::{RLIM_INFINITY, Resource, setrlimit},
    },
};
use secrecy::{ExposeSecret as _, SecretSlice, zeroize::Zeroizing};

/// A secret's bytes. Has no `Debug` that shows them, and is wiped when dropped.
#[derive(Clone)]
pub(crate) struct Value(SecretSlice<u8>);

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Value {
    /// Takes bytes over without leaving a copy.
    pub(crate) fn new(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        // Boxing a vector with room to spare would move the bytes and leave the old ones behind.
        let exact = if bytes.len() == bytes.capacity() {
            std::mem::take(&mut *bytes)
        } else {
            let mut exact = Vec::with_capacity(bytes.len());
            exact.extend_from_slice(&bytes);
            exact
        };
        Self(SecretSlice::from(exact))
    }

    /// The bytes, for delivering them.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.expose().len()
    }
}

/// Keeps the whole process out of swap and out of core dumps. Call before any secret is read.
///
/// Pages are locked as they are used (`MCL_ONFAULT`), so that this costs no memory. Returns the
/// reason when locking is not permitted; everything else does not fail.
pub(crate) fn protect_process() -> Option<String> {
    let _ = prctl::set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    match mlockall(flags) {
        Ok(()) => None,
        Err(cause @ (Errno::EPERM | Errno::ENOMEM)) => Some(format!(
            "{cause}: give it CAP_IPC_LOCK, or a larger RLIMIT_MEMLOCK"
        )),
        Err(cause) => Some(cause.to_string()),
    }
}
