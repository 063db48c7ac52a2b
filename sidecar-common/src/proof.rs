//! How the guard proves that it works: an agent does something harmless that only a hook can answer or count.

/// A command of bpf(2) that no kernel has. Where the hook of bpf(2) runs it answers with [`ANSWER`], whoever asks; where
/// it does not, the kernel says `EINVAL`.
pub const COMMAND: u32 = 0x4b53;
/// `ENOANO` (uapi/asm-generic/errno.h): bpf(2) itself never fails with it.
pub const ANSWER: i64 = 55;

macro_rules! proofs {
    ($($(#[$doc:meta])* $name:ident = $hook:literal,)+) => {
        /// A hook that an agent makes run, and that counts it: an index of the map `FIRED`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Proof {
            $($(#[$doc])* $name,)+
        }

        impl Proof {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The hook's name in the kernel.
            #[must_use]
            pub const fn hook(self) -> &'static str {
                match self {
                    $(Self::$name => $hook,)+
                }
            }
        }
    };
}

proofs! {
    /// The agent opens a guarded file of its own in procfs.
    FileOpen = "file_open",
    /// The agent writes its own `comm`.
    FilePermission = "file_permission",
    /// The agent looks where its guardian's executable is.
    PtraceAccess = "ptrace_access_check",
    /// The agent asks whether it exists (signal 0).
    TaskKill = "task_kill",
    /// The agent sets a resource limit of its own to what it is.
    TaskSetrlimit = "task_setrlimit",
    /// A thread of the agent sets its priority to what it is.
    TaskSetnice = "task_setnice",
    /// A thread of the agent sets its processors to those it may use.
    TaskSetscheduler = "task_setscheduler",
    /// The agent has a folder watched by inotify.
    PathNotify = "path_notify",
    /// The agent mounts nothing on its root.
    Mount = "sb_mount",
    /// The agent starts a thread.
    TaskAlloc = "task_alloc",
}

/// How many there are.
pub const PROOFS: usize = Proof::ALL.len();
