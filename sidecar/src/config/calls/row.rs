//! What a row of the table is made of: arguments that many calls have, and how a call is written down.

use sidecar_common::syscall::TEXTS;

use super::{
    Argument as A, Call, Category, End,
    Meaning::{
        Address, AddressOut, Bits, Descriptor, Folder, Message, Mode, Number, Pointer, Signal,
        Size, Text, Words,
    },
    bits::{
        CLONE3_FLAGS, HOW_FLAGS, MAP_FLAGS, OPEN_FLAGS, PROTECTION, RESOLVE_FLAGS, RESOURCES,
        WAIT_FLAGS, WHENCE,
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

pub(super) const fn call(name: &'static str, category: Category, arguments: &'static [A]) -> Call {
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
pub(super) const fn by(function: &'static str, call: Call) -> Call {
    Call { function, ..call }
}

pub(super) const fn ending(end: End, call: Call) -> Call {
    Call { end, ..call }
}

pub(super) const OPEN: A = A("flags", Bits(&OPEN_FLAGS));
pub(super) const FD: A = A("fd", Descriptor);
pub(super) const DFD: A = A("dfd", Folder);
pub(super) const FILENAME: A = A("filename", Text);
pub(super) const MODE: A = A("mode", Mode);
pub(super) const COUNT: A = A("count", Size);
pub(super) const STATBUF: A = A("statbuf", Pointer);
pub(super) const SIG: A = A("sig", Signal);
pub(super) const PID: A = A("pid", Number);
pub(super) const TIMER: A = A("timer_id", Number);
pub(super) const RLIM: A = A("rlim", Pointer);
pub(super) const RESOURCE: A = A("resource", Bits(&RESOURCES));
pub(super) const FLAGS: A = A("flags", Size);
pub(super) const WHENCE_ARGUMENT: A = A("whence", Bits(&WHENCE));
pub(super) const WAIT_OPTIONS: A = A("options", Bits(&WAIT_FLAGS));
pub(super) const PROTECTION_ARGUMENT: A = A("prot", Bits(&PROTECTION));
pub(super) const MAP_FLAGS_ARGUMENT: A = A("flags", Bits(&MAP_FLAGS));

/// `struct open_how` (uapi/linux/openat2.h)
pub(super) const OPEN_HOW: &[A] = &[
    A("flags", Bits(&HOW_FLAGS)),
    MODE,
    A("resolve", Bits(&RESOLVE_FLAGS)),
];

/// `struct clone_args` (uapi/linux/sched.h)
pub(super) const CLONE_ARGS: &[A] = &[
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
