//! Calls of 32 bits on `x86_64`: of programs of that width, and of any by `int 0x80`. They have numbers of their own, some of
//! them functions and arguments of their own, and are told as the calls of 64 bits that they are.

use std::{collections::BTreeSet, str::FromStr as _, sync::LazyLock};

use sidecar_common::syscall::{NARROW, SOCKETCALL};
use syscalls::x86::Sysno;

use super::{
    Argument as A, Call, Category, End,
    Meaning::{Descriptor, Number, Pointer, Short, Signal, Size, Text},
    row,
    table::TABLE,
};

/// One that is not simply called as that of 64 bits, and done by the function of that name.
#[derive(Clone, Copy)]
struct Other {
    /// In the table of 32-bit calls.
    name: &'static str,
    /// What it is told as.
    is: &'static str,
    function: &'static str,
    /// Where they are others.
    arguments: Option<&'static [A]>,
}

const fn other(name: &'static str, is: &'static str, function: &'static str) -> Other {
    Other {
        name,
        is,
        function,
        arguments: None,
    }
}

const fn with(arguments: &'static [A], other: &Other) -> Other {
    Other {
        arguments: Some(arguments),
        ..*other
    }
}

const FD: A = A("fd", Descriptor);
const BUFFER: A = A("ubuf", Pointer);
const COUNT: A = A("count", Size);
const POSITION: &[A] = &[FD, BUFFER, COUNT, A("poslo", Size), A("poshi", Size)];

/// As `arch/x86/entry/syscalls/syscall_32.tbl` has them.
static OTHERS: &[Other] = &[
    with(
        &[A("filename", Text), A("user", Short), A("group", Short)],
        &other("chown", "chown", "chown16"),
    ),
    other("chown32", "chown", "chown"),
    with(&[A("name", Text)], &other("umount", "umount2", "oldumount")),
    with(POSITION, &other("pread64", "pread64", "ia32_pread64")),
    with(POSITION, &other("pwrite64", "pwrite64", "ia32_pwrite64")),
    with(
        &[FD, A("offset", Number), row::WHENCE_ARGUMENT],
        &other("lseek", "lseek", "lseek"),
    ),
    with(
        &[
            FD,
            A("offset_high", Size),
            A("offset_low", Size),
            A("result", Pointer),
            row::WHENCE_ARGUMENT,
        ],
        &other("_llseek", "lseek", "llseek"),
    ),
    other("oldstat", "stat", "stat"),
    other("stat64", "stat", "ia32_stat64"),
    other("oldfstat", "fstat", "fstat"),
    other("fstat64", "fstat", "ia32_fstat64"),
    other("oldlstat", "lstat", "lstat"),
    other("lstat64", "lstat", "ia32_lstat64"),
    other("fstatat64", "newfstatat", "ia32_fstatat64"),
    other("fcntl", "fcntl", "fcntl64"),
    other("fcntl64", "fcntl", "fcntl64"),
    other("clone", "clone", "ia32_clone"),
    with(
        &[A("pid", Number), A("stat_addr", Pointer), row::WAIT_OPTIONS],
        &other("waitpid", "wait4", "waitpid"),
    ),
    with(&[A("arg", Pointer)], &other("mmap", "mmap", "ia32_mmap")),
    with(
        &[
            A("addr", Pointer),
            A("len", Size),
            row::PROTECTION_ARGUMENT,
            row::MAP_FLAGS_ARGUMENT,
            FD,
            A("pgoff", Size),
        ],
        &other("mmap2", "mmap", "mmap_pgoff"),
    ),
    with(
        &[A("sig", Signal), A("act", Pointer), A("oact", Pointer)],
        &other("sigaction", "rt_sigaction", "sigaction"),
    ),
    with(
        &[A("sig", Signal), A("handler", Pointer)],
        &other("signal", "rt_sigaction", "signal"),
    ),
    other("timer_settime", "timer_settime", "timer_settime32"),
    other("timer_settime64", "timer_settime", "timer_settime"),
    other("timer_gettime", "timer_gettime", "timer_gettime32"),
    other("timer_gettime64", "timer_gettime", "timer_gettime"),
    with(&[A("uid", Short)], &other("setuid", "setuid", "setuid16")),
    other("setuid32", "setuid", "setuid"),
    with(&[A("gid", Short)], &other("setgid", "setgid", "setgid16")),
    other("setgid32", "setgid", "setgid"),
    other("getuid", "getuid", "getuid16"),
    other("getuid32", "getuid", "getuid"),
    other("geteuid", "geteuid", "geteuid16"),
    other("geteuid32", "geteuid", "geteuid"),
    other("getgid", "getgid", "getgid16"),
    other("getgid32", "getgid", "getgid"),
    other("getegid", "getegid", "getegid16"),
    other("getegid32", "getegid", "getegid"),
    other("olduname", "uname", "uname"),
    other("oldolduname", "uname", "olduname"),
    other("getrlimit", "getrlimit", "old_getrlimit"),
    other("ugetrlimit", "getrlimit", "getrlimit"),
];

/// What `socketcall(2)` does, by its first argument (include/uapi/linux/net.h): what it is told as, of whose arguments it has so
/// many, the first ones (net/socket.c).
static PARTS: &[(u32, &str, usize)] = &[
    (1, "socket", 3),
    (2, "bind", 3),
    (3, "connect", 3),
    (4, "listen", 2),
    (5, "accept", 3),
    (9, "sendto", 4),    // send
    (10, "recvfrom", 4), // recv
    (11, "sendto", 6),
    (12, "recvfrom", 6),
    (16, "sendmsg", 3),
    (17, "recvmsg", 3),
    (18, "accept4", 4),
];

/// The call that has parts. Not told of itself.
static SOCKETCALLS: Call = Call {
    name: "socketcall",
    function: "socketcall",
    category: Category::Network,
    arguments: &[],
    end: End::Parts,
};

/// By the kernel side's numbers.
static ALL: LazyLock<Vec<(u32, Call)>> = LazyLock::new(|| {
    // (32-bit programs of arm64 are not told of)
    if cfg!(not(target_arch = "x86_64")) {
        return Vec::new();
    }
    let is_other = |call: &&Call| !OTHERS.iter().any(|other| other.name == call.name);
    let same = TABLE.iter().filter(is_other).copied();
    let same = same.filter_map(|call| Some((number(call.name)?, call)));
    let others = OTHERS.iter().filter_map(|other| {
        let call = table_call(other.is)?;
        let call = Call {
            function: other.function,
            arguments: other.arguments.unwrap_or(call.arguments),
            ..*call
        };
        Some((number(other.name)?, call))
    });
    let parts = PARTS.iter().filter_map(|(part, is, count)| {
        let call = table_call(is)?;
        let arguments = call.arguments.get(..*count)?;
        let call = Call { arguments, ..*call };
        Some((SOCKETCALL + part, call))
    });
    same.chain(others).chain(parts).collect()
});

fn table_call(name: &str) -> Option<&'static Call> {
    TABLE.iter().find(|call| call.name == name)
}

/// The number of a 32-bit call.
fn number(name: &str) -> Option<u32> {
    let number = Sysno::from_str(name).ok()?.id();
    Some(NARROW + u32::try_from(number).ok()?)
}

/// All of them, by the kernel side's numbers, and as which they are told.
pub(super) fn all() -> impl Iterator<Item = (u32, &'static Call)> {
    ALL.iter().map(|(number, call)| (*number, call))
}

/// Whether a number is that of a part of `socketcall(2)`.
pub(crate) fn is_part(number: u32) -> bool {
    number >= SOCKETCALL
}

/// The call with parts, if one of these calls is a part of it.
pub(super) fn parted(calls: &[&'static Call]) -> Option<(u32, &'static Call)> {
    let is_wanted = |name: &str| calls.iter().any(|call| call.name == name);
    if !all().any(|(number, call)| is_part(number) && is_wanted(call.name)) {
        return None;
    }
    Some((number(SOCKETCALLS.name)?, &SOCKETCALLS))
}

/// The functions that do these calls for programs of 32 bits and for no others: each by its names, of which the kernel has one,
/// or has both and calls the first.
pub(crate) fn functions(calls: &[&'static Call]) -> BTreeSet<[String; 2]> {
    let names = |call: &Call| {
        ["__ia32_compat_sys_", "__ia32_sys_"].map(|prefix| format!("{prefix}{}", call.function))
    };
    // Without arguments there are no two ways to take them from registers: one function has both names.
    let is_shared = |call: &Call| {
        call.arguments.is_empty() && calls.iter().any(|wide| wide.function == call.function)
    };
    let own = all().filter(|(number, call)| {
        let is_wanted = calls.iter().any(|wide| wide.name == call.name);
        is_wanted && !is_part(*number) && !is_shared(call)
    });
    own.chain(parted(calls))
        .map(|(_, call)| names(call))
        .collect()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_call_of_64_bits_is_one_of_32_bits_too() {
        for call in TABLE {
            let narrow = all().filter(|(_, narrow)| narrow.name == call.name);
            assert!(narrow.count() > 0, "{}", call.name);
        }
    }

    #[test]
    fn every_other_is_there_and_is_one_of_ours() {
        for other in OTHERS {
            assert!(number(other.name).is_some(), "{}", other.name);
            assert!(table_call(other.is).is_some(), "{}", other.is);
        }
        assert_eq!(number("socketcall"), Some(NARROW + 102));
    }

    #[test]
    fn numbers_are_their_own() {
        let mut numbers = HashSet::new();
        for (number, call) in all() {
            assert!(numbers.insert(number), "{}", call.name);
            assert!(
                is_part(number) || (NARROW..SOCKETCALL).contains(&number),
                "{}",
                call.name
            );
        }
    }

    #[test]
    fn functions_are_those_that_the_others_do_not_share() {
        let of = |name: &str| functions(&[table_call(name).unwrap()]);
        let names = |function: &str| {
            ["__ia32_compat_sys_", "__ia32_sys_"].map(|prefix| format!("{prefix}{function}"))
        };
        // 16 bits; that of 32 is that of 64
        assert_eq!(of("getuid"), BTreeSet::from([names("getuid16")]));
        assert!(of("getpid").is_empty());
        assert_eq!(of("connect"), ["connect", "socketcall"].map(names).into());
        assert_eq!(of("fcntl"), BTreeSet::from([names("fcntl64")]));
    }

    #[test]
    fn every_part_is_one_of_our_calls() {
        let parts = all().filter(|(number, _)| is_part(*number));
        assert_eq!(parts.count(), PARTS.len());
    }
}
