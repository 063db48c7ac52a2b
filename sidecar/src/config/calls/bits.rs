//! Numbers that have names: flags, of which there may be several, and choices.

#![expect(
    clippy::cast_sign_loss,
    reason = "libc gives the kernel's words of 32 bits in whatever type C has for them"
)]

use std::fmt::Write as _;

use nix::libc;

/// How a number is told.
#[derive(Debug)]
pub(crate) struct Bits {
    /// The bits that the kernel looks at.
    width: u64,
    /// What has one of these values, under a mask; 0 for none.
    mask: u64,
    choices: &'static [(u64, &'static str)],
    /// Each if all of its bits are set; those of several bits before those that are part of them.
    flags: &'static [(u64, &'static str)],
}

impl Bits {
    /// `O_WRONLY|O_CREAT`; what has no name, in hexadecimal; `0` for none.
    pub(crate) fn text(&self, value: u64) -> String {
        let mut text = String::new();
        let mut add = |part: &str| {
            if !text.is_empty() {
                text.push('|');
            }
            text.push_str(part);
        };
        let mut left = value & self.width;
        if self.mask != 0 {
            let choice = value & self.mask;
            if let Some((_, name)) = self.choices.iter().find(|(one, _)| *one == choice) {
                add(name);
                left &= !self.mask;
            }
        }
        for (bits, name) in self.flags {
            if left & bits == *bits {
                add(name);
                left &= !bits;
            }
        }
        if left != 0 || text.is_empty() {
            let mut rest = String::new();
            // (a String takes what is written)
            let _ = if left == 0 {
                write!(rest, "0")
            } else {
                write!(rest, "{left:#x}")
            };
            if !text.is_empty() {
                text.push('|');
            }
            text.push_str(&rest);
        }
        text
    }
}

/// The bits that flags and choices have in a register.
const LOW: u64 = u32::MAX as u64;

/// Constants of libc under their own names.
macro_rules! named {
    ($($name:ident),* $(,)?) => {
        &[$((libc::$name as u64 & LOW, stringify!($name))),*]
    };
}

const fn flags(flags: &'static [(u64, &'static str)]) -> Bits {
    Bits {
        width: LOW,
        mask: 0,
        choices: &[],
        flags,
    }
}

/// One of several, in 32 bits, as the kernel takes it.
const fn choice(choices: &'static [(u64, &'static str)]) -> Bits {
    Bits {
        width: LOW,
        mask: u32::MAX as u64,
        choices,
        flags: &[],
    }
}

const OPEN: Bits = Bits {
    width: LOW,
    mask: libc::O_ACCMODE as u64,
    choices: named![O_RDONLY, O_WRONLY, O_RDWR],
    flags: named![
        O_TMPFILE,
        O_SYNC,
        O_CREAT,
        O_EXCL,
        O_NOCTTY,
        O_TRUNC,
        O_APPEND,
        O_NONBLOCK,
        O_DSYNC,
        O_ASYNC,
        O_DIRECT,
        O_DIRECTORY,
        O_NOFOLLOW,
        O_NOATIME,
        O_CLOEXEC,
        O_PATH,
    ],
};
pub(super) static OPEN_FLAGS: Bits = OPEN;
/// In `struct open_how`, whose words have 64 bits.
pub(super) static HOW_FLAGS: Bits = Bits {
    width: u64::MAX,
    ..OPEN
};
/// In the same structure.
pub(super) static RESOLVE_FLAGS: Bits = Bits {
    width: u64::MAX,
    ..flags(named![
        RESOLVE_NO_XDEV,
        RESOLVE_NO_MAGICLINKS,
        RESOLVE_NO_SYMLINKS,
        RESOLVE_BENEATH,
        RESOLVE_IN_ROOT,
        RESOLVE_CACHED,
    ])
};
pub(super) static AT_FLAGS: Bits = flags(named![
    AT_REMOVEDIR,
    AT_SYMLINK_NOFOLLOW,
    AT_SYMLINK_FOLLOW,
    AT_NO_AUTOMOUNT,
    AT_EMPTY_PATH,
    AT_STATX_FORCE_SYNC,
    AT_STATX_DONT_SYNC,
]);
pub(super) static RENAME_FLAGS: Bits =
    flags(named![RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT]);
pub(super) static MOUNT_FLAGS: Bits = flags(named![
    MS_RDONLY,
    MS_NOSUID,
    MS_NODEV,
    MS_NOEXEC,
    MS_SYNCHRONOUS,
    MS_REMOUNT,
    MS_MANDLOCK,
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODIRATIME,
    MS_BIND,
    MS_MOVE,
    MS_REC,
    MS_SILENT,
    MS_UNBINDABLE,
    MS_PRIVATE,
    MS_SLAVE,
    MS_SHARED,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_LAZYTIME,
]);
pub(super) static UMOUNT_FLAGS: Bits =
    flags(named![MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW]);
pub(super) static WHENCE: Bits = choice(named![SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE]);
pub(super) static FCNTL: Bits = choice(named![
    F_DUPFD,
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_SETFL,
    F_GETLK,
    F_SETLK,
    F_SETLKW,
    F_SETOWN,
    F_GETOWN,
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_OFD_SETLKW,
    F_SETLEASE,
    F_GETLEASE,
    F_NOTIFY,
    F_DUPFD_CLOEXEC,
    F_SETPIPE_SZ,
    F_GETPIPE_SZ,
    F_ADD_SEALS,
    F_GET_SEALS,
]);
pub(super) static FAMILIES: Bits = choice(named![
    AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_XDP,
]);
pub(super) static SOCKET_TYPES: Bits = Bits {
    width: LOW,
    mask: 0xf,
    choices: named![
        SOCK_STREAM,
        SOCK_DGRAM,
        SOCK_RAW,
        SOCK_RDM,
        SOCK_SEQPACKET,
        SOCK_DCCP
    ],
    flags: named![SOCK_CLOEXEC, SOCK_NONBLOCK],
};
pub(super) static ACCEPT_FLAGS: Bits = flags(named![SOCK_CLOEXEC, SOCK_NONBLOCK]);
pub(super) static MESSAGE_FLAGS: Bits = flags(named![
    MSG_OOB,
    MSG_PEEK,
    MSG_DONTROUTE,
    MSG_CTRUNC,
    MSG_TRUNC,
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_WAITALL,
    MSG_CONFIRM,
    MSG_NOSIGNAL,
    MSG_MORE,
    MSG_CMSG_CLOEXEC,
    MSG_ERRQUEUE,
]);
/// The signal that the parent is sent when the child ends is in the lowest eight.
pub(super) static CLONE_FLAGS: Bits = Bits {
    width: LOW,
    mask: 0xff,
    choices: &[(libc::SIGCHLD as u64, "SIGCHLD")],
    flags: named![
        CLONE_VM,
        CLONE_FS,
        CLONE_FILES,
        CLONE_SIGHAND,
        CLONE_PIDFD,
        CLONE_PTRACE,
        CLONE_VFORK,
        CLONE_PARENT,
        CLONE_THREAD,
        CLONE_NEWNS,
        CLONE_SYSVSEM,
        CLONE_SETTLS,
        CLONE_PARENT_SETTID,
        CLONE_CHILD_CLEARTID,
        CLONE_UNTRACED,
        CLONE_CHILD_SETTID,
        CLONE_NEWCGROUP,
        CLONE_NEWUTS,
        CLONE_NEWIPC,
        CLONE_NEWUSER,
        CLONE_NEWPID,
        CLONE_NEWNET,
        CLONE_IO,
    ],
};
/// In `struct clone_args`, where the signal has a word of its own (uapi/linux/sched.h).
pub(super) static CLONE3_FLAGS: Bits = Bits {
    width: u64::MAX,
    mask: 0,
    choices: &[],
    flags: &[
        (0x80, "CLONE_NEWTIME"),
        (libc::CLONE_VM as u64 & LOW, "CLONE_VM"),
        (libc::CLONE_FS as u64 & LOW, "CLONE_FS"),
        (libc::CLONE_FILES as u64 & LOW, "CLONE_FILES"),
        (libc::CLONE_SIGHAND as u64 & LOW, "CLONE_SIGHAND"),
        (libc::CLONE_PIDFD as u64 & LOW, "CLONE_PIDFD"),
        (libc::CLONE_PTRACE as u64 & LOW, "CLONE_PTRACE"),
        (libc::CLONE_VFORK as u64 & LOW, "CLONE_VFORK"),
        (libc::CLONE_PARENT as u64 & LOW, "CLONE_PARENT"),
        (libc::CLONE_THREAD as u64 & LOW, "CLONE_THREAD"),
        (libc::CLONE_NEWNS as u64 & LOW, "CLONE_NEWNS"),
        (libc::CLONE_SYSVSEM as u64 & LOW, "CLONE_SYSVSEM"),
        (libc::CLONE_SETTLS as u64 & LOW, "CLONE_SETTLS"),
        (
            libc::CLONE_PARENT_SETTID as u64 & LOW,
            "CLONE_PARENT_SETTID",
        ),
        (
            libc::CLONE_CHILD_CLEARTID as u64 & LOW,
            "CLONE_CHILD_CLEARTID",
        ),
        (libc::CLONE_UNTRACED as u64 & LOW, "CLONE_UNTRACED"),
        (libc::CLONE_CHILD_SETTID as u64 & LOW, "CLONE_CHILD_SETTID"),
        (libc::CLONE_NEWCGROUP as u64 & LOW, "CLONE_NEWCGROUP"),
        (libc::CLONE_NEWUTS as u64 & LOW, "CLONE_NEWUTS"),
        (libc::CLONE_NEWIPC as u64 & LOW, "CLONE_NEWIPC"),
        (libc::CLONE_NEWUSER as u64 & LOW, "CLONE_NEWUSER"),
        (libc::CLONE_NEWPID as u64 & LOW, "CLONE_NEWPID"),
        (libc::CLONE_NEWNET as u64 & LOW, "CLONE_NEWNET"),
        (libc::CLONE_IO as u64 & LOW, "CLONE_IO"),
        (0x1_0000_0000, "CLONE_CLEAR_SIGHAND"),
        (0x2_0000_0000, "CLONE_INTO_CGROUP"),
    ],
};
pub(super) static WAIT_FLAGS: Bits = flags(named![
    WNOHANG,
    WUNTRACED,
    WEXITED,
    WCONTINUED,
    WNOWAIT,
    __WNOTHREAD,
    __WALL,
    __WCLONE,
]);
pub(super) static PTRACE: Bits = choice(named![
    PTRACE_TRACEME,
    PTRACE_PEEKTEXT,
    PTRACE_PEEKDATA,
    PTRACE_PEEKUSER,
    PTRACE_POKETEXT,
    PTRACE_POKEDATA,
    PTRACE_POKEUSER,
    PTRACE_CONT,
    PTRACE_KILL,
    PTRACE_SINGLESTEP,
    PTRACE_ATTACH,
    PTRACE_DETACH,
    PTRACE_SYSCALL,
    PTRACE_SETOPTIONS,
    PTRACE_GETEVENTMSG,
    PTRACE_GETSIGINFO,
    PTRACE_SETSIGINFO,
    PTRACE_GETREGSET,
    PTRACE_SETREGSET,
    PTRACE_SEIZE,
    PTRACE_INTERRUPT,
    PTRACE_LISTEN,
    PTRACE_PEEKSIGINFO,
]);
pub(super) static DUP_FLAGS: Bits = flags(named![O_CLOEXEC]);
pub(super) static PROTECTION: Bits = flags(named![
    PROT_READ,
    PROT_WRITE,
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP
]);
pub(super) static MAP_FLAGS: Bits = Bits {
    width: LOW,
    mask: 0xf,
    choices: named![MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE],
    flags: named![
        MAP_FIXED,
        MAP_ANONYMOUS,
        MAP_GROWSDOWN,
        MAP_DENYWRITE,
        MAP_EXECUTABLE,
        MAP_LOCKED,
        MAP_NORESERVE,
        MAP_POPULATE,
        MAP_NONBLOCK,
        MAP_STACK,
        MAP_HUGETLB,
        MAP_SYNC,
        MAP_FIXED_NOREPLACE,
    ],
};
pub(super) static MEMFD_FLAGS: Bits = flags(named![MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB]);
pub(super) static RESOURCES: Bits = choice(named![
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_DATA,
    RLIMIT_STACK,
    RLIMIT_CORE,
    RLIMIT_RSS,
    RLIMIT_NPROC,
    RLIMIT_NOFILE,
    RLIMIT_MEMLOCK,
    RLIMIT_AS,
    RLIMIT_LOCKS,
    RLIMIT_SIGPENDING,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_RTPRIO,
    RLIMIT_RTTIME,
]);

#[cfg(test)]
mod tests;
