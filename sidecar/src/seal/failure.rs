//! Why a program did not get its secrets: one error for all that can go wrong on the way.

use super::{
    deliver_env::EnvError,
    deliver_file::FileError,
    held::{HoldError, MergingError},
    stack::StackError,
    verify::Refusal,
};
use crate::{kernel, limits, observe::Reason, secrets::SourceError};

/// Why a program did not get its secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Identity(#[from] Refusal),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("environment: {0}")]
    Env(#[from] EnvError),
    #[error("files: {0}")]
    File(#[from] FileError),
    #[error("hold: {0}")]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Merging(#[from] MergingError),
    /// Its secrets are in its memory: whatever the policy, it does not start without the seal.
    #[error("with its secrets written: {0}")]
    Late(HoldError),
    /// What it was given would be open to all.
    #[error("the guard does not work: its hooks do not run. See the agent's log")]
    Unguarded,
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

impl Failure {
    /// As metrics name it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Identity(refusal) => reason_of(refusal),
            Self::Source(_) => Reason::Source,
            Self::Env(_) => Reason::Environment,
            Self::File(_) => Reason::Files,
            Self::Hold(_) | Self::Late(_) => Reason::Hold,
            Self::Merging(_) => Reason::MemoryMerged,
            Self::Unguarded => Reason::Guard,
            Self::Kernel(_) => Reason::Kernel,
        }
    }

    /// Whether it is for want of descriptors or memory: another time it may go well.
    pub(super) fn is_for_lack(&self) -> bool {
        match self {
            Self::Identity(refusal) => refusal.is_for_lack(),
            Self::Source(SourceError::File { cause, .. } | SourceError::Mounted { cause, .. }) => {
                limits::is_for_lack(cause)
            }
            Self::File(e) => e.is_for_lack(),
            // (its stack pointer comes last: until then it may be written again)
            Self::Env(EnvError::Write(HoldError::Os { cause, .. })) => limits::is_for_lack(cause),
            Self::Kernel(e) => matches!(e, kernel::Error::Lack { .. }),
            _ => false,
        }
    }
}

fn reason_of(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::Traced(..) => Reason::Traced,
        Refusal::OtherFile { .. } | Refusal::OtherInterpreter { .. } => Reason::OtherFile,
        Refusal::OtherContent { .. } | Refusal::Writable { .. } => Reason::OtherContent,
        Refusal::Provenance { .. } => Reason::Provenance,
        Refusal::NoPlace
        | Refusal::NoContainerName(_)
        | Refusal::NoPod
        | Refusal::UnknownPod(..)
        | Refusal::TooManyLabels(_) => Reason::PlaceUnknown,
        Refusal::NotCounted => Reason::NotCounted,
        Refusal::Preload(_) | Refusal::Interpreter(_) => Reason::Preload,
        Refusal::Unknown { .. } => Reason::Unreadable,
    }
}

impl From<StackError> for Failure {
    fn from(error: StackError) -> Self {
        Self::Env(error.into())
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn for_want_of_descriptors_a_stack_is_written_another_time() {
        let write = |errno: Errno| {
            let cause = errno.into();
            Failure::Env(EnvError::Write(HoldError::Os { what: "-", cause }))
        };
        assert!(write(Errno::MFILE).is_for_lack() && write(Errno::NOMEM).is_for_lack());
        assert!(!write(Errno::IO).is_for_lack());
    }
}
