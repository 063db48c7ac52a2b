//! What is remembered of a delivery: which secrets a program was given, and no value of one.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    ptr,
    sync::Arc,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sidecar_common::policy::Held;

use super::{Secret, report::joined};
use crate::{
    config::{Binding, Config, SecretRef},
    process::Process,
    secrets::Value,
};

/// Tells values apart without keeping them.
#[derive(Default)]
pub(super) struct Fingerprints(RandomState);

impl Fingerprints {
    /// A number that another value has once in 2^64.
    pub(super) fn of(&self, value: &Value) -> u64 {
        self.0.hash_one(value.expose())
    }
}

/// A secret that a program was given, by its place in the configuration of then.
pub(super) struct Given {
    pub(super) binding: usize,
    secret: usize,
    pub(super) print: u64,
    pub(super) as_file: bool,
}

/// What is remembered of a delivery.
pub(super) struct Memory {
    pub(super) config: Arc<Config>,
    pub(super) given: Box<[Given]>,
    /// The process that was given them.
    pub(super) root: Root,
}

/// The process that a seal was given to, by its number and when it started.
#[derive(Clone, Copy)]
pub(super) struct Root {
    pub(super) pid: u32,
    start_ns: u64,
}

impl Root {
    /// Sends it a signal; nobody else, who may have its number by now.
    pub(super) fn signal(self, signal: Signal) {
        let sent = || -> Option<()> {
            let pid = Pid::from_raw(self.pid.cast_signed())?;
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            // (of the process that we have a descriptor of, or of a later one: then the signal goes to nobody)
            let is_it = Process::new(self.pid).started_at(self.start_ns).ok()?;
            is_it.then(|| pidfd_send_signal(&process, signal).ok())?
        };
        if sent().is_none() {
            tracing::debug!(pid = self.pid, "it is gone, and not told");
        }
    }
}

impl Memory {
    /// Of a program that is held still.
    pub(super) fn of(
        held: &Held,
        config: &Arc<Config>,
        secrets: &[Secret<'_>],
        prints: &Fingerprints,
    ) -> Self {
        let given = secrets.iter().filter_map(|secret| {
            let place = place_of(config, secret)?;
            Some(Given {
                binding: place.0,
                secret: place.1,
                print: prints.of(&secret.value),
                as_file: secret.as_file,
            })
        });
        let given = given.collect();
        Self {
            config: config.clone(),
            given,
            root: Root {
                pid: held.pid,
                start_ns: held.start_ns,
            },
        }
    }

    /// The number of the process that was given them.
    pub(super) fn pid(&self) -> u32 {
        self.root.pid
    }

    /// Names of the bindings by which it was given them, joined by commas.
    pub(super) fn bindings(&self) -> String {
        let given = self.given.iter().map(|given| given.binding);
        let places: BTreeSet<usize> = given.collect();
        let bindings = places.iter().filter_map(|at| self.config.secrets.get(*at));
        joined(bindings)
    }

    pub(super) fn secret(&self, given: &Given) -> Option<(&Binding, &SecretRef)> {
        let binding = self.config.secrets.get(given.binding)?;
        Some((binding, binding.secret_refs.get(given.secret)?))
    }
}

fn place_of(config: &Config, secret: &Secret<'_>) -> Option<(usize, usize)> {
    let mut bindings = config.secrets.iter();
    let binding = bindings.position(|known| ptr::eq(known, secret.binding))?;
    let mut refs = secret.binding.secret_refs.iter();
    let secret = refs.position(|known| known.name == secret.name)?;
    Some((binding, secret))
}
