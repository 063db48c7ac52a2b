//! From the bindings that a program matches to the secrets in its files and its variables.

use sidecar_common::policy::{Held, HeldFlags};

use super::{
    Delivered, Secret, Work,
    deliver_env::{self, DIR_VARIABLE},
    deliver_file::SecretFile,
    failure::Failure,
    held::HeldTask,
    memory::Memory,
    provenance,
    stack::Variable,
    variables,
    verify::Refusal,
    where_from,
};
use crate::{
    config::{Binding, Provenance},
    kernel,
    process::{Place, Process},
};

impl Work {
    /// Looks up every secret of the bindings. All of them, or none.
    pub(super) fn resolve<'c>(&self, bindings: &[&'c Binding]) -> Result<Vec<Secret<'c>>, Failure> {
        if kernel::ask_hook() == kernel::Answer::Silent {
            return Err(Failure::Unguarded);
        }
        let mut secrets: Vec<Secret<'c>> = Vec::new();
        for binding in bindings {
            for secret in &binding.secret_refs {
                let (as_env, as_file) = (binding.delivery.env, binding.delivery.file);
                // two bindings may give the same secret; the configuration has seen to it that it
                // is from the same source
                if let Some(known) = secrets.iter_mut().find(|known| known.name == secret.name) {
                    known.as_env |= as_env;
                    known.as_file |= as_file;
                    continue;
                }
                let Some(value) = self.store.find(&secret.source)? else {
                    continue;
                };
                secrets.push(Secret {
                    binding,
                    name: &secret.name,
                    value,
                    as_env,
                    as_file,
                });
            }
        }
        Ok(secrets)
    }

    /// Variables must not bring other code into it than its container was started with.
    pub(super) fn refuse_foreign_code(
        &mut self,
        held: &Held,
        task: &HeldTask,
        place: &Place,
        bindings: &[&Binding],
    ) -> Result<(), Failure> {
        let stack = task.stack()?;
        let is_allowed = |name: &str| {
            let mut bindings = bindings.iter();
            bindings.all(|binding| binding.allow_variables.iter().any(|known| known == name))
        };
        if let Some(name) = variables::of_loader(&stack).find(|name| !is_allowed(name)) {
            return Err(Refusal::Preload(name).into());
        }
        let foreign = variables::of_interpreters(&stack);
        let foreign: Vec<_> = foreign.filter(|found| !is_allowed(found.name)).collect();
        let Some(first) = foreign.first() else {
            return Ok(());
        };
        let other = match &place.container {
            None => Some(first.name),
            Some(container) => self
                .started_with
                .find_other(&container.id, &foreign, held.pid, &self.whereabouts)
                .map_err(|cause| Refusal::Unknown {
                    what: "what its container was started with could not be looked at, and variables are set that bring code",
                    cause,
                })?,
        };
        other.map_or(Ok(()), |name| Err(Refusal::Interpreter(name).into()))
    }

    /// Of some programs all code comes from their image, from their first library on.
    pub(super) fn keep_to_image(
        &mut self,
        held: &Held,
        process: Process,
        bindings: &[&Binding],
    ) -> Result<(), Failure> {
        let mut bindings = bindings.iter();
        let wanted = Some(Provenance::ImageAndLibraries);
        if let Some(binding) = bindings.find(|binding| binding.selector.provenance == wanted) {
            self.maps.keep_to_image(held.seal)?;
            provenance::check_code(process, &where_from, binding)?;
        }
        Ok(())
    }

    /// Files first, then variables.
    pub(super) fn deliver(
        &mut self,
        held: &Held,
        process: Process,
        task: &mut HeldTask,
        secrets: &[Secret<'_>],
    ) -> Result<Delivered, Failure> {
        let mut delivered = Delivered {
            overrode: Vec::new(),
            note: None,
            vault: None,
            memory: Memory::of(held, &self.config, secrets, &self.prints),
        };
        // (before there is a secret in it that a neighbour may guess)
        if held.flags.contains(HeldFlags::MERGED) {
            task.stop_merging(process, self.dies_with_us())?;
        }
        let mut variables: Vec<Variable<'_>> = Vec::with_capacity(secrets.len() + 1);
        for secret in secrets.iter().filter(|secret| secret.as_env) {
            match deliver_env::check(secret.name, &secret.value) {
                Ok(()) => {
                    variables.push(Variable {
                        name: secret.name,
                        value: secret.value.expose(),
                    });
                }
                // what a variable cannot hold is still there as a file
                Err(e) if secret.as_file => delivered.note = Some(e.to_string()),
                Err(e) => return Err(e.into()),
            }
        }
        let files: Vec<_> = secrets
            .iter()
            .filter(|secret| secret.as_file)
            .map(|secret| SecretFile {
                name: secret.name,
                value: &secret.value,
                binding: &secret.binding.name,
                access: Some(secret.binding.file),
            })
            .collect();
        let directory;
        if !files.is_empty() {
            // guarded before there is a file in it
            self.maps.mount_for(self.scope, held.seal)?;
            let vault;
            (vault, directory) = self.mounter.mount(held, &files)?;
            delivered.vault = Some(vault);
            variables.push(Variable {
                name: DIR_VARIABLE,
                value: directory.as_bytes(),
            });
        }
        // The stack is written when nothing else can fail.
        let written = process
            .stop_core_dumps()
            .and_then(|()| process.leave_memory_out_of_core_dumps())
            .map_err(|cause| {
                Failure::Identity(Refusal::Unknown {
                    what: "its core dumps (the agent needs CAP_SYS_RESOURCE and CAP_DAC_OVERRIDE)",
                    cause,
                })
            })
            .and_then(|()| Ok(deliver_env::deliver(task, process, &variables)?));
        match written {
            Ok(overrode) => delivered.overrode = overrode,
            Err(failure) => {
                self.clean(delivered.vault.take());
                return Err(failure);
            }
        }
        Ok(delivered)
    }
}
