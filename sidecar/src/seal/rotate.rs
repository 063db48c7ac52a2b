//! Rotation: a secret has another value, and programs that were given the old one run.
//!
//! Their files are replaced, each at once. What is in a variable cannot be changed from outside: a program is told
//! by a signal, or ended to be started again, if its binding says so.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fd::{AsFd as _, OwnedFd},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sidecar_common::policy::Held;

use super::{
    Secret, Work,
    deliver_file::SecretFile,
    ending::{Due, OLD_FOR},
};
use crate::{
    config::{Binding, Config, OnRotate, RotateSignal, SecretRef, Source},
    observe::{Clock, Detail, Kind, Who},
    secrets::Value,
};

/// How long a program that is to be started again has for its end, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Tells values apart without keeping them.
#[derive(Default)]
pub(super) struct Prints(RandomState);

impl Prints {
    /// A number that another value has once in 2^64.
    fn of(&self, value: &Value) -> u64 {
        self.0.hash_one(value.expose())
    }
}

/// A secret that a program was given, by its place in the configuration of then.
struct Given {
    binding: usize,
    secret: usize,
    print: u64,
    as_file: bool,
}

/// What is remembered of a delivery.
pub(super) struct Memory {
    config: Arc<Config>,
    given: Vec<Given>,
    /// The process that was given them, where its binding wants it told. Opened while it was held: it is no other.
    process: Option<OwnedFd>,
    pub(super) pid: u32,
}

impl Memory {
    /// Of a program that is held still.
    pub(super) fn of(
        held: &Held,
        config: &Arc<Config>,
        secrets: &[Secret<'_>],
        prints: &Prints,
    ) -> Self {
        let mut is_to_be_told = false;
        let given = secrets.iter().filter_map(|secret| {
            let place = place_of(config, secret)?;
            is_to_be_told |= secret.binding.on_rotate != OnRotate::None;
            Some(Given {
                binding: place.0,
                secret: place.1,
                print: prints.of(&secret.value),
                as_file: secret.as_file,
            })
        });
        let given = given.collect();
        let pid = Pid::from_raw(held.pid.cast_signed()).filter(|_| is_to_be_told);
        Self {
            config: config.clone(),
            given,
            process: pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            pid: held.pid,
        }
    }

    fn secret(&self, given: &Given) -> Option<(&Binding, &SecretRef)> {
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

/// What one program has of old.
struct Stale {
    seal: u64,
    /// Which of its secrets, with their names and new values.
    values: Vec<(usize, String, Value)>,
    action: OnRotate,
}

impl Work {
    /// Brings every program that runs up to its sources, as the configuration of now names them.
    pub(super) fn rotate(&mut self) {
        let mut values = HashMap::new();
        let stale: Vec<Stale> = self
            .trees
            .iter()
            .filter_map(|(seal, tree)| self.stale(*seal, tree.memory.as_ref()?, &mut values))
            .collect();
        for stale in &stale {
            self.bring_up(stale);
        }
        self.bring_up_adopted();
    }

    /// Of programs that an agent before us sealed only their files are known, and whose they are.
    fn bring_up_adopted(&mut self) {
        let adopted = self.trees.iter().filter(|(_, tree)| tree.memory.is_none());
        for (&seal, tree) in adopted {
            for vault in &tree.vaults {
                let values: Vec<(String, String, Value)> = vault
                    .names()
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|name| {
                        let binding = vault.binding_of(&name)?;
                        let (_, source) = configured(&self.config, &binding, &name)?;
                        let value = self.store.get(source).ok()?;
                        (!vault.has(&name, &value).ok()?).then_some((name, binding, value))
                    })
                    .collect();
                if values.is_empty() {
                    continue;
                }
                let files: Vec<SecretFile<'_>> = values
                    .iter()
                    .map(|(name, binding, value)| SecretFile {
                        name,
                        value,
                        binding,
                        access: None,
                    })
                    .collect();
                let mut old = Vec::new();
                let replaced = vault.replace(&files, &mut old);
                self.due
                    .push((Instant::now() + OLD_FOR, Due::Old { seal, files: old }));
                if let Err(e) = replaced {
                    tracing::error!("secret files are not replaced: {e}");
                    continue;
                }
                let names: Vec<&str> = files.iter().map(|file| file.name).collect();
                self.metrics.rotated.inc_by(names.len() as u64);
                let who = Who {
                    pid: 0,
                    process: "",
                    container: None,
                };
                let detail = Detail::Rotated {
                    secrets: &names,
                    files: &names,
                    action: "none",
                };
                self.journal
                    .emit(Clock::monotonic_ns(), Kind::Rotated, who, detail);
            }
        }
    }

    /// Each source is asked once, however many run.
    fn stale(
        &self,
        seal: u64,
        memory: &Memory,
        asked: &mut HashMap<(String, String), Option<Value>>,
    ) -> Option<Stale> {
        let mut stale = Stale {
            seal,
            values: Vec::new(),
            action: OnRotate::None,
        };
        for (index, given) in memory.given.iter().enumerate() {
            let Some((then, secret)) = memory.secret(given) else {
                continue;
            };
            let Some((now, source)) = configured(&self.config, &then.name, &secret.name) else {
                continue; // no longer configured: it keeps what it has
            };
            let value = asked
                .entry((then.name.clone(), secret.name.clone()))
                .or_insert_with(|| match self.store.get(source) {
                    Ok(value) => Some(value),
                    Err(e) => {
                        tracing::warn!("running programs keep what they were given: {e}");
                        None
                    }
                });
            if let Some(value) = value
                && self.prints.of(value) != given.print
            {
                stale
                    .values
                    .push((index, secret.name.clone(), value.clone()));
                stale.action = stronger(stale.action, now.on_rotate);
            }
        }
        (!stale.values.is_empty()).then_some(stale)
    }

    fn bring_up(&mut self, stale: &Stale) {
        let Some(tree) = self.trees.get_mut(&stale.seal) else {
            return;
        };
        let Some(memory) = &mut tree.memory else {
            return;
        };
        let config = memory.config.clone();
        let files: Vec<SecretFile<'_>> = stale
            .values
            .iter()
            .filter_map(|(index, name, value)| {
                let given = memory.given.get(*index).filter(|given| given.as_file)?;
                Some(SecretFile {
                    name,
                    value,
                    binding: &config.secrets.get(given.binding)?.name,
                    access: None,
                })
            })
            .collect();
        let seal = stale.seal;
        for vault in &tree.vaults {
            let mut old = Vec::new();
            let replaced = vault.replace(&files, &mut old);
            self.due
                .push((Instant::now() + OLD_FOR, Due::Old { seal, files: old }));
            // The next look finds it stale again.
            if let Err(e) = replaced {
                tracing::error!(pid = memory.pid, "its secret files are not replaced: {e}");
                return;
            }
        }
        for (index, _, value) in &stale.values {
            if let Some(given) = memory.given.get_mut(*index) {
                given.print = self.prints.of(value);
            }
        }
        let action = match (&memory.process, stale.action) {
            (None, _) | (_, OnRotate::None) => "none",
            (Some(process), OnRotate::Signal(signal)) => {
                let _ = pidfd_send_signal(process, number(signal));
                "signal"
            }
            (Some(process), OnRotate::Restart) => {
                let _ = pidfd_send_signal(process, Signal::TERM);
                if let Ok(process) = process.as_fd().try_clone_to_owned() {
                    let kill_at = Instant::now() + END_WITHIN;
                    self.due.push((kill_at, Due::Kill(process)));
                }
                "restart"
            }
        };
        let secrets: Vec<&str> = stale
            .values
            .iter()
            .map(|(_, name, _)| name.as_str())
            .collect();
        let files: Vec<&str> = files.iter().map(|file| file.name).collect();
        self.metrics.rotated.inc_by(secrets.len() as u64);
        let who = Who {
            pid: memory.pid,
            process: tree.process.as_deref().unwrap_or_default(),
            container: tree.place.container.as_ref(),
        };
        let detail = Detail::Rotated {
            secrets: &secrets,
            files: &files,
            action,
        };
        self.journal
            .emit(Clock::monotonic_ns(), Kind::Rotated, who, detail);
    }
}

/// A secret's binding and source, as the configuration names them.
fn configured<'c>(
    config: &'c Config,
    binding: &str,
    secret: &str,
) -> Option<(&'c Binding, &'c Source)> {
    let binding = config.secrets.iter().find(|known| known.name == binding)?;
    let mut refs = binding.secret_refs.iter();
    let secret = refs.find(|known| known.name == secret)?;
    Some((binding, &secret.source))
}

/// Of what two bindings want, that which makes sure that the program has the new value.
fn stronger(one: OnRotate, other: OnRotate) -> OnRotate {
    match (one, other) {
        (OnRotate::Restart, _) | (_, OnRotate::Restart) => OnRotate::Restart,
        (OnRotate::None, other) => other,
        (one, _) => one,
    }
}

fn number(signal: RotateSignal) -> Signal {
    match signal {
        RotateSignal::Hup => Signal::HUP,
        RotateSignal::Int => Signal::INT,
        RotateSignal::Quit => Signal::QUIT,
        RotateSignal::Usr1 => Signal::USR1,
        RotateSignal::Usr2 => Signal::USR2,
        RotateSignal::Term => Signal::TERM,
        RotateSignal::Winch => Signal::WINCH,
    }
}
