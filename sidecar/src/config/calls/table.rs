//! The table. Arguments have the names that the kernel gives them where it defines the call (`SYSCALL_DEFINE`).

use sidecar_common::syscall::TEXTS;

use super::{
    Argument as A, Call,
    Category::{self, Descriptors, File, Memory, Network, Process, Signals, System, Timers, Users},
    End,
    Meaning::{
        Address, AddressOut, Bits, Descriptor, Folder, Message, Mode, Number, Offset, Pointer,
        Signal, Size, Text, Words,
    },
    bits::{
        ACCEPT_FLAGS, AT_FLAGS, CLONE_FLAGS, CLONE3_FLAGS, DUP_FLAGS, FAMILIES, FCNTL, HOW_FLAGS,
        MAP_FLAGS, MEMFD_FLAGS, MESSAGE_FLAGS, MOUNT_FLAGS, OPEN_FLAGS, PROTECTION, PTRACE,
        RENAME_FLAGS, RESOLVE_FLAGS, RESOURCES, SOCKET_TYPES, UMOUNT_FLAGS, WAIT_FLAGS, WHENCE,
    },
};

/// Registers in which the kernel takes arguments.
const MAX_ARGUMENTS: usize = 6;

/// A row is more than the kernel side can read of a call: no such table compiles.
const fn ensure_readable(arguments: &[A]) {
    let (mut texts, mut addresses) = (0, 0);
    let mut at = 0;
    while at < arguments.len() {
        match arguments[at].1 {
            Text => texts += 1,
            Address | AddressOut | Words(_) => {
                addresses += 1;
                assert!(
                    at + 1 < arguments.len(),
                    "its length is the argument after it"
                );
            }
            Message => addresses += 1,
            _ => {}
        }
        at += 1;
    }
    assert!(
        arguments.len() <= MAX_ARGUMENTS,
        "more arguments than registers"
    );
    assert!(texts <= TEXTS, "more texts than a record has room for");
    assert!(addresses <= 1, "more addresses than a record has room for");
}

const fn call(name: &'static str, category: Category, arguments: &'static [A]) -> Call {
    ensure_readable(arguments);
    Call {
        name,
        function: name,
        category,
        arguments,
        end: End::Returns,
    }
}

/// One whose function has another name.
const fn by(function: &'static str, call: Call) -> Call {
    Call { function, ..call }
}

const fn ending(end: End, call: Call) -> Call {
    Call { end, ..call }
}

const OPEN: A = A("flags", Bits(&OPEN_FLAGS));
const FD: A = A("fd", Descriptor);
const DFD: A = A("dfd", Folder);
const FILENAME: A = A("filename", Text);
const MODE: A = A("mode", Mode);
const COUNT: A = A("count", Size);
const STATBUF: A = A("statbuf", Pointer);
const SIG: A = A("sig", Signal);
const PID: A = A("pid", Number);
const TIMER: A = A("timer_id", Number);
const RLIM: A = A("rlim", Pointer);
const RESOURCE: A = A("resource", Bits(&RESOURCES));
const FLAGS: A = A("flags", Size);
pub(super) const WHENCE_ARGUMENT: A = A("whence", Bits(&WHENCE));
pub(super) const WAIT_OPTIONS: A = A("options", Bits(&WAIT_FLAGS));
pub(super) const PROTECTION_ARGUMENT: A = A("prot", Bits(&PROTECTION));
pub(super) const MAP_FLAGS_ARGUMENT: A = A("flags", Bits(&MAP_FLAGS));

/// `struct open_how` (uapi/linux/openat2.h)
const OPEN_HOW: &[A] = &[
    A("flags", Bits(&HOW_FLAGS)),
    MODE,
    A("resolve", Bits(&RESOLVE_FLAGS)),
];
/// `struct clone_args` (uapi/linux/sched.h)
const CLONE_ARGS: &[A] = &[
    A("flags", Bits(&CLONE3_FLAGS)),
    A("pidfd", Pointer),
    A("child_tid", Pointer),
    A("parent_tid", Pointer),
    A("exit_signal", Signal),
    A("stack", Pointer),
    A("stack_size", Size),
    A("tls", Pointer),
    A("set_tid", Pointer),
    A("set_tid_size", Size),
    A("cgroup", Descriptor),
];

pub(super) static TABLE: &[Call] = &[
    call("open", File, &[FILENAME, OPEN, MODE]),
    call("openat", File, &[DFD, FILENAME, OPEN, MODE]),
    call(
        "openat2",
        File,
        &[DFD, FILENAME, A("how", Words(OPEN_HOW)), A("usize", Size)],
    ),
    call("creat", File, &[A("pathname", Text), MODE]),
    call("close", File, &[FD]),
    call("unlink", File, &[A("pathname", Text)]),
    call(
        "unlinkat",
        File,
        &[DFD, A("pathname", Text), A("flag", Bits(&AT_FLAGS))],
    ),
    call("rename", File, &[A("oldname", Text), A("newname", Text)]),
    call(
        "renameat",
        File,
        &[
            A("olddfd", Folder),
            A("oldname", Text),
            A("newdfd", Folder),
            A("newname", Text),
        ],
    ),
    call(
        "renameat2",
        File,
        &[
            A("olddfd", Folder),
            A("oldname", Text),
            A("newdfd", Folder),
            A("newname", Text),
            A("flags", Bits(&RENAME_FLAGS)),
        ],
    ),
    call(
        "chown",
        File,
        &[FILENAME, A("user", Number), A("group", Number)],
    ),
    call(
        "fchownat",
        File,
        &[
            DFD,
            FILENAME,
            A("user", Number),
            A("group", Number),
            A("flag", Bits(&AT_FLAGS)),
        ],
    ),
    call(
        "mount",
        File,
        &[
            A("dev_name", Text),
            A("dir_name", Text),
            A("type", Pointer),
            A("flags", Bits(&MOUNT_FLAGS)),
            A("data", Pointer),
        ],
    ),
    by(
        "umount",
        call(
            "umount2",
            File,
            &[A("name", Text), A("flags", Bits(&UMOUNT_FLAGS))],
        ),
    ),
    call("read", File, &[FD, A("buf", Pointer), COUNT]),
    call("write", File, &[FD, A("buf", Pointer), COUNT]),
    call(
        "pread64",
        File,
        &[FD, A("buf", Pointer), COUNT, A("pos", Offset)],
    ),
    call(
        "pwrite64",
        File,
        &[FD, A("buf", Pointer), COUNT, A("pos", Offset)],
    ),
    call("lseek", File, &[FD, A("offset", Offset), WHENCE_ARGUMENT]),
    by("newstat", call("stat", File, &[FILENAME, STATBUF])),
    by("newfstat", call("fstat", File, &[FD, STATBUF])),
    by("newlstat", call("lstat", File, &[FILENAME, STATBUF])),
    call(
        "newfstatat",
        File,
        &[DFD, FILENAME, STATBUF, A("flag", Bits(&AT_FLAGS))],
    ),
    call(
        "statx",
        File,
        &[
            DFD,
            FILENAME,
            A("flags", Bits(&AT_FLAGS)),
            A("mask", Size),
            A("buffer", Pointer),
        ],
    ),
    call("fcntl", File, &[FD, A("cmd", Bits(&FCNTL)), A("arg", Size)]),
    call("fsync", File, &[FD]),
    call("fdatasync", File, &[FD]),
    call("sync", File, &[]),
    call(
        "socket",
        Network,
        &[
            A("family", Bits(&FAMILIES)),
            A("type", Bits(&SOCKET_TYPES)),
            A("protocol", Number),
        ],
    ),
    call(
        "connect",
        Network,
        &[FD, A("uservaddr", Address), A("addrlen", Size)],
    ),
    call(
        "accept",
        Network,
        &[
            FD,
            A("upeer_sockaddr", AddressOut),
            A("upeer_addrlen", Pointer),
        ],
    ),
    call(
        "accept4",
        Network,
        &[
            FD,
            A("upeer_sockaddr", AddressOut),
            A("upeer_addrlen", Pointer),
            A("flags", Bits(&ACCEPT_FLAGS)),
        ],
    ),
    call(
        "bind",
        Network,
        &[FD, A("umyaddr", Address), A("addrlen", Size)],
    ),
    call("listen", Network, &[FD, A("backlog", Number)]),
    call(
        "sendto",
        Network,
        &[
            FD,
            A("buff", Pointer),
            A("len", Size),
            A("flags", Bits(&MESSAGE_FLAGS)),
            A("addr", Address),
            A("addr_len", Size),
        ],
    ),
    call(
        "sendmsg",
        Network,
        &[FD, A("msg", Message), A("flags", Bits(&MESSAGE_FLAGS))],
    ),
    call(
        "recvfrom",
        Network,
        &[
            FD,
            A("ubuf", Pointer),
            A("size", Size),
            A("flags", Bits(&MESSAGE_FLAGS)),
            A("addr", AddressOut),
            A("addr_len", Pointer),
        ],
    ),
    call(
        "recvmsg",
        Network,
        &[FD, A("msg", Message), A("flags", Bits(&MESSAGE_FLAGS))],
    ),
    ending(
        End::Execs,
        call(
            "execve",
            Process,
            &[FILENAME, A("argv", Pointer), A("envp", Pointer)],
        ),
    ),
    ending(
        End::Execs,
        call(
            "execveat",
            Process,
            &[
                A("fd", Folder),
                FILENAME,
                A("argv", Pointer),
                A("envp", Pointer),
                A("flags", Bits(&AT_FLAGS)),
            ],
        ),
    ),
    call(
        "clone",
        Process,
        &[
            A("clone_flags", Bits(&CLONE_FLAGS)),
            A("newsp", Pointer),
            A("parent_tidptr", Pointer),
        ],
    ),
    call(
        "clone3",
        Process,
        &[A("uargs", Words(CLONE_ARGS)), A("size", Size)],
    ),
    call("fork", Process, &[]),
    call("vfork", Process, &[]),
    ending(End::Ends, call("exit", Process, &[A("error_code", Number)])),
    ending(
        End::Ends,
        call("exit_group", Process, &[A("error_code", Number)]),
    ),
    call(
        "wait4",
        Process,
        &[
            A("upid", Number),
            A("stat_addr", Pointer),
            WAIT_OPTIONS,
            A("ru", Pointer),
        ],
    ),
    call(
        "waitid",
        Process,
        &[
            A("which", Number),
            A("upid", Number),
            A("infop", Pointer),
            WAIT_OPTIONS,
            A("ru", Pointer),
        ],
    ),
    call(
        "ptrace",
        Process,
        &[
            A("request", Bits(&PTRACE)),
            PID,
            A("addr", Pointer),
            A("data", Pointer),
        ],
    ),
    call("dup", Descriptors, &[A("fildes", Descriptor)]),
    call(
        "dup2",
        Descriptors,
        &[A("oldfd", Descriptor), A("newfd", Descriptor)],
    ),
    call(
        "dup3",
        Descriptors,
        &[
            A("oldfd", Descriptor),
            A("newfd", Descriptor),
            A("flags", Bits(&DUP_FLAGS)),
        ],
    ),
    call(
        "mmap",
        Memory,
        &[
            A("addr", Pointer),
            A("len", Size),
            PROTECTION_ARGUMENT,
            MAP_FLAGS_ARGUMENT,
            FD,
            A("off", Size),
        ],
    ),
    call("munmap", Memory, &[A("addr", Pointer), A("len", Size)]),
    call(
        "mprotect",
        Memory,
        &[A("start", Pointer), A("len", Size), PROTECTION_ARGUMENT],
    ),
    call(
        "madvise",
        Memory,
        &[
            A("start", Pointer),
            A("len_in", Size),
            A("behavior", Number),
        ],
    ),
    call("brk", Memory, &[A("brk", Pointer)]),
    call(
        "memfd_create",
        Memory,
        &[A("uname", Text), A("flags", Bits(&MEMFD_FLAGS))],
    ),
    call(
        "rt_sigaction",
        Signals,
        &[
            SIG,
            A("act", Pointer),
            A("oact", Pointer),
            A("sigsetsize", Size),
        ],
    ),
    call("kill", Signals, &[PID, SIG]),
    call("tgkill", Signals, &[A("tgid", Number), PID, SIG]),
    call("tkill", Signals, &[PID, SIG]),
    call(
        "timer_create",
        Timers,
        &[
            A("which_clock", Number),
            A("timer_event_spec", Pointer),
            A("created_timer_id", Pointer),
        ],
    ),
    call(
        "timer_settime",
        Timers,
        &[
            TIMER,
            FLAGS,
            A("new_setting", Pointer),
            A("old_setting", Pointer),
        ],
    ),
    call("timer_gettime", Timers, &[TIMER, A("setting", Pointer)]),
    call("timer_getoverrun", Timers, &[TIMER]),
    call("timer_delete", Timers, &[TIMER]),
    call("setuid", Users, &[A("uid", Number)]),
    call("setgid", Users, &[A("gid", Number)]),
    call("getuid", Users, &[]),
    call("geteuid", Users, &[]),
    call("getgid", Users, &[]),
    call("getegid", Users, &[]),
    call("getpid", System, &[]),
    call("getppid", System, &[]),
    by("newuname", call("uname", System, &[A("name", Pointer)])),
    call("getrlimit", System, &[RESOURCE, RLIM]),
    call("setrlimit", System, &[RESOURCE, RLIM]),
    call(
        "prlimit64",
        System,
        &[
            PID,
            RESOURCE,
            A("new_rlim", Pointer),
            A("old_rlim", Pointer),
        ],
    ),
    call("getrusage", System, &[A("who", Number), A("ru", Pointer)]),
    call(
        "bpf",
        System,
        &[A("cmd", Number), A("uattr", Pointer), A("size", Size)],
    ),
    call("setns", System, &[FD, A("flags", Bits(&CLONE_FLAGS))]),
    call("unshare", System, &[A("unshare_flags", Bits(&CLONE_FLAGS))]),
    call(
        "io_uring_setup",
        System,
        &[A("entries", Size), A("params", Pointer)],
    ),
];
