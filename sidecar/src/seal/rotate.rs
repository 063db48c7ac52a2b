//! Rotation: a secret has another value, and programs that were given the old one run.
//!
//! Their files are replaced, each at once. What is in a variable cannot be changed from outside: a program is told
//! by a signal, or ended to be started again, if its binding says so.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sidecar_common::policy::Vault as VaultOwner;

use super::{
    Work,
    deadline_queue::Due,
    deliver_file::{FileError, SecretFile, Vault, step},
    memory::Memory,
};
use crate::{
    config::{Binding, Config, OnRotate, RotateSignal, Source},
    observe::{Detail, Kind, Who},
    secrets::Value,
    util::Clock,
};

/// How long a program that is to be started again has for its end, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(30);

/// How soon it is tried again where descriptors or memory were wanting.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How many trees are brought up while others wait.
const AT_ONCE: usize = 32;

/// What one program has of old.
struct Stale {
    seal: u64,
    /// Which of its secrets, with their names and new values.
    values: Vec<(usize, String, Value)>,
    action: OnRotate,
}

/// What is to be brought up to its sources, and what of it the kernel side guards.
#[derive(Default)]
pub(super) struct Rotation {
    left: VecDeque<Left>,
    /// By device number. Into nothing else a secret is written.
    guarded: BTreeMap<u32, VaultOwner>,
}

enum Left {
    Stale(Stale),
    /// A tree that an agent before us sealed.
    Adopted(u64),
}

impl Rotation {
    /// Whether there is something to do.
    pub(super) fn is_on(&self) -> bool {
        !self.left.is_empty()
    }
}

impl Work {
    /// Finds every program that runs and is to be brought up to its sources, as the configuration of now names them.
    pub(super) fn rotate(&mut self) {
        let mut values = HashMap::new();
        let stale = self.trees.iter().filter_map(|(seal, tree)| {
            let stale = self.stale(*seal, tree.memory.as_ref()?, &mut values)?;
            Some(Left::Stale(stale))
        });
        let mut left: VecDeque<Left> = stale.collect();
        // (of these only their files are known, and whose they are)
        let adopted = self.trees.iter().filter(|(_, tree)| tree.memory.is_none());
        left.extend(adopted.map(|(seal, _)| Left::Adopted(*seal)));
        self.rotation = Rotation {
            guarded: if left.is_empty() {
                BTreeMap::new()
            } else {
                self.maps.vaults(self.scope)
            },
            left,
        };
    }

    /// Brings some of them up. Others are delivered to in between, and wait no longer.
    pub(super) fn rotate_some(&mut self) {
        let some = self.rotation.left.len().min(AT_ONCE);
        let some: Vec<Left> = self.rotation.left.drain(..some).collect();
        let mut unknown = Vec::new();
        for left in &some {
            let (Left::Stale(Stale { seal, .. }) | Left::Adopted(seal)) = left;
            let vaults = self.trees.get(seal).map(|tree| &tree.vaults);
            let vaults = vaults.into_iter().flatten();
            unknown.extend(
                vaults
                    .filter(|vault| self.mounter.is_unknown(vault))
                    .map(Vault::view),
            );
        }
        if !unknown.is_empty() {
            // (what is not found is told where it is needed)
            let _ = self.mounter.look_for(&unknown);
        }
        for left in &some {
            let done = match left {
                Left::Stale(stale) => self.bring_up(stale),
                Left::Adopted(seal) => self.bring_up_adopted(*seal),
            };
            if let Err(e) = done {
                let (Left::Stale(Stale { seal, .. }) | Left::Adopted(seal)) = left;
                let memory = self.trees.get(seal).and_then(|tree| tree.memory.as_ref());
                let pid = memory.map_or(0, Memory::pid);
                tracing::error!(pid, "its secret files are not replaced: {e}");
                // (else the next look finds it stale again)
                if e.is_for_lack() {
                    self.rotate_again_later();
                }
            }
        }
        self.mounter.close_found();
    }

    fn rotate_again_later(&mut self) {
        if !self.due.has(|due| matches!(due, Due::Rotate)) {
            self.due.add(Instant::now() + AGAIN_AFTER, Due::Rotate);
        }
    }

    /// Replaces files of a tree, in each of its folders.
    fn replace(&mut self, seal: u64, files: &[SecretFile<'_>]) -> Result<(), FileError> {
        if files.is_empty() {
            return Ok(());
        }
        let Some(tree) = self.trees.get(&seal) else {
            return Ok(());
        };
        let replaced = tree.vaults.iter().try_for_each(|vault| {
            self.mounter
                .open_guarded(vault, seal, &self.rotation.guarded)?
                .replace(files)
        });
        self.wipe_old_later(seal);
        replaced
    }

    /// Of a program that an agent before us sealed only its files are known, and whose they are.
    fn bring_up_adopted(&mut self, seal: u64) -> Result<(), FileError> {
        let Some(tree) = self.trees.get(&seal) else {
            return Ok(());
        };
        let mut values: Vec<(String, String, Value)> = Vec::new();
        for vault in &tree.vaults {
            let vault = self
                .mounter
                .open_guarded(vault, seal, &self.rotation.guarded)?;
            let names = vault.names().map_err(step("look at its secret files"))?;
            for name in names {
                let Some(binding) = vault
                    .binding_of(&name)
                    .map_err(step("look whose its secret files are"))?
                else {
                    continue;
                };
                let Some((_, source)) = configured(&self.config, &binding, &name) else {
                    continue;
                };
                let Ok(value) = self.store.get(source) else {
                    continue; // (it is told where others are brought up, and keeps what it has)
                };
                if !vault
                    .has(&name, &value)
                    .map_err(step("read its secret files"))?
                {
                    values.push((name, binding, value));
                }
            }
        }
        if values.is_empty() {
            return Ok(());
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
        self.replace(seal, &files)?;
        let names: Vec<&str> = files.iter().map(|file| file.name).collect();
        self.metrics.rotated.inc_by(names.len() as u64);
        let who = Who {
            pid: 0,
            process: "",
            container: None,
            pod_uid: None,
        };
        let detail = Detail::Rotated {
            secrets: &names,
            files: &names,
            action: "none",
        };
        self.journal
            .emit(Clock::monotonic_ns(), Kind::Rotated, who, detail);
        Ok(())
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

    fn bring_up(&mut self, stale: &Stale) -> Result<(), FileError> {
        let Some(memory) = self
            .trees
            .get(&stale.seal)
            .and_then(|tree| tree.memory.as_ref())
        else {
            return Ok(());
        };
        let (config, root) = (memory.config.clone(), memory.root);
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
        self.replace(stale.seal, &files)?;
        let Some(tree) = self.trees.get_mut(&stale.seal) else {
            return Ok(());
        };
        let given = tree.memory.iter_mut().flat_map(|memory| &mut memory.given);
        for (index, given) in given.enumerate() {
            let mut values = stale.values.iter();
            if let Some((_, _, value)) = values.find(|(of, _, _)| *of == index) {
                given.print = self.prints.of(value);
            }
        }
        let action = match stale.action {
            // (its children keep what they have)
            _ if !tree.has_root => "none",
            OnRotate::None => "none",
            OnRotate::Signal(signal) => {
                root.signal(number(signal));
                "signal"
            }
            OnRotate::Restart => {
                root.signal(Signal::TERM);
                let kill_at = Instant::now() + END_WITHIN;
                self.due.add(kill_at, Due::Kill(root));
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
            pid: root.pid,
            process: tree.process.as_deref().unwrap_or_default(),
            container: tree.place.container.as_ref(),
            pod_uid: None,
        };
        let detail = Detail::Rotated {
            secrets: &secrets,
            files: &files,
            action,
        };
        self.journal
            .emit(Clock::monotonic_ns(), Kind::Rotated, who, detail);
        Ok(())
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
