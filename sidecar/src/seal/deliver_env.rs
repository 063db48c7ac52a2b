//! Delivery as variables: which of the secrets can be one, and the stack with them in it.

use super::{
    held::{HeldTask, HoldError},
    stack::{MAX_STRING, StackError, Variable},
};
use crate::{process::Process, secrets::Value};

/// Names the folder of the secret files, for the program and its children.
pub(crate) const DIR_VARIABLE: &str = "KERNELSEAL_SECRETS_DIR";

/// Why variables could not be delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// A variable ends at the first NUL.
    #[error(
        "the value of {0} contains a NUL byte, which no variable can. Deliver it as a file (delivery: [file])"
    )]
    Nul(String),
    /// The stack cannot take them.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// It could not be looked at or written, or by halves.
    #[error(transparent)]
    Write(HoldError),
}

/// Checks that a value can be a variable's.
pub(crate) fn check(name: &str, value: &Value) -> Result<(), EnvError> {
    if value.expose().contains(&0) {
        return Err(EnvError::Nul(name.to_owned()));
    }
    if name.len() + value.len() + 2 > MAX_STRING {
        return Err(StackError::StringTooLong {
            name: name.to_owned(),
        }
        .into());
    }
    Ok(())
}

/// Adds variables to a held program. Returns the names it had before, now with our values.
pub(crate) fn deliver(
    task: &mut HeldTask,
    process: Process,
    variables: &[Variable<'_>],
) -> Result<Vec<String>, EnvError> {
    let stack = task.stack()?;
    // Nearly all fit into what every program is allowed; only the others' limit is looked up.
    let rebuilt = match stack.rebuild(variables, 0) {
        Err(StackError::TooMuch { .. }) => {
            let limit = process.stack_limit().map_err(|cause| {
                let what = "look up how large its stack may be";
                EnvError::Write(HoldError::Os { what, cause })
            })?;
            stack.rebuild(variables, limit)?
        }
        rebuilt => rebuilt?,
    };
    task.write(&rebuilt).map_err(EnvError::Write)?;
    Ok(rebuilt.overrode)
}
