//! Labels of metrics whose values are a closed set: each has its series, at 0, from the start. `increase()` of a series that
//! is born at 1 is 0, and an alert on it misses what happened first.

use serde::{Serialize, Serializer};

/// An enum whose variants are the values of a label, with all of them in `ALL`.
macro_rules! label {
    ($(#[$about:meta])* pub(crate) enum $Name:ident { $($(#[$doc:meta])* $Variant:ident => $label:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $Name { $($(#[$doc])* $Variant,)* }

        impl $Name {
            /// Each of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$Variant),*];

            /// As metrics name it.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$Variant => $label,)* }
            }
        }

        impl Serialize for $Name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        }
    };
}

label! {
    /// Why a program was refused: the `reason` of `kernelseal_programs_refused_total`. The sentence is in its REFUSED event.
    pub(crate) enum Reason {
        /// Somebody traces it.
        Traced => "traced",
        /// Another file than the binding's, or run by another interpreter.
        OtherFile => "other_file",
        /// Another SHA-256 than the binding's, or one that may change.
        OtherContent => "other_content",
        /// It comes from elsewhere than the binding wants.
        Provenance => "provenance",
        /// What its selector asks for is not known of its container or pod.
        PlaceUnknown => "place_unknown",
        /// Its SHA-256 was not counted in time.
        NotCounted => "not_counted",
        /// A variable would bring foreign code into it.
        Preload => "preload",
        /// The kernel did not execute it.
        NotExecuted => "not_executed",
        /// Its memory is merged with others' (KSM), and that cannot be switched off.
        MemoryMerged => "memory_merged",
        /// It could not be looked at.
        Unreadable => "unreadable",
        /// A source gives no value.
        Source => "source",
        /// A value cannot be a variable's, or its stack has no room.
        Environment => "environment",
        /// Its secret files could not be made.
        Files => "files",
        /// It could not be held or released.
        Hold => "hold",
        /// The guard does not work.
        Guard => "guard",
        /// The kernel side could not be asked, or refused.
        Kernel => "kernel",
        /// It was held longer than `holdTimeout`.
        Deadline => "deadline",
        /// Its agent ended meanwhile.
        NoAgent => "no_agent",
        /// A map of the kernel side is full.
        MapFull => "map_full",
    }
}

label! {
    /// By what programs talk to each other: `protocol` of events and metrics.
    pub(crate) enum Protocol {
        /// TCP.
        Tcp => "TCP",
        /// UDP.
        Udp => "UDP",
        /// Unix sockets.
        Unix => "UNIX",
    }
}

label! {
    /// What became of an attempt to connect.
    pub(crate) enum Outcome {
        /// There is a connection.
        Established => "established",
        /// A datagram was sent; UDP tells no more.
        Sent => "sent",
        /// Nobody listens there, or does not want to.
        Refused => "refused",
        /// Nobody answered.
        TimedOut => "timed_out",
        /// There is no way to there.
        Unreachable => "unreachable",
        /// The other end broke it off.
        Reset => "reset",
        /// Its own program gave it up.
        Aborted => "aborted",
        /// It is not allowed to.
        Denied => "denied",
        /// Something else.
        Failed => "failed",
    }
}

/// Makes [`ACCESSES`] of the guarded files' table.
macro_rules! accesses {
    (
        files { $($_file:ident $file:literal: $($_of_file:ident),*;)* }
        folders { $($_folder:ident $folder:literal: $($_of_folder:ident),*;)* }
    ) => {
        /// Accesses that have series of their own; all others are counted as [`OTHER_ACCESS`], for a file's name may be anybody's
        /// choice. Events tell each by its name.
        pub(crate) const ACCESSES: &[&str] = &[
            $($file,)*
            $($folder,)*
            "ptrace",
            "process_vm",
            SECRET_FILE,
            "perf_event",
            "bpf",
            "pins",
            "tracefs",
            "kcore",
            "/dev/mem",
            "fanotify",
            "mount",
            "executable_map",
            "signal",
            "prlimit",
            "priority",
            "agent",
            "oom_score_adj",
            "ftrace_enabled",
            "sysrq-trigger",
            "core_pattern",
            "modprobe",
            OTHER_ACCESS,
        ];
    };
}
sidecar_common::guarded_files!(accesses);

/// The access to a secret file.
pub(crate) const SECRET_FILE: &str = "secret_file";
/// Accesses without series of their own.
pub(crate) const OTHER_ACCESS: &str = "other";

/// An access's series.
pub(super) fn access_label(access: &str) -> &'static str {
    let mut known = ACCESSES.iter();
    known
        .find(|known| **known == access)
        .unwrap_or(&OTHER_ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_label_of_any_name_is_one_of_the_set_without_spaces() {
        assert_eq!(access_label("environ"), "environ");
        assert_eq!(access_label("a file of an attacker's"), OTHER_ACCESS);
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        for label in ACCESSES.iter().copied().chain(reasons) {
            assert!(!label.contains(char::is_whitespace), "{label:?}");
        }
    }
}
