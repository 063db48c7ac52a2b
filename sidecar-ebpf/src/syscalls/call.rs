//! One system call, from its beginning to its end.
//!
//! Registers are kept at the beginning: the program may reuse them. What they point to is read at the end, when the
//! kernel has read it too: before, it may not be in memory, and what the kernel writes is not there yet. Of a program
//! that execs, nothing is left at the end: there the kernel's own copy of the path is kept.

use core::arch::asm;

use aya_ebpf::{
    btf_maps::{LruHashMap, PerCpuArray},
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user},
    macros::btf_map,
};
use sidecar_common::{
    event::Header,
    syscall::{
        ADDRESS_BYTES, ARGUMENTS, Call, CallFlags, FilterFlags, LOST_RETURNS, MAX_EXECS,
        MAX_NUMBER, MAX_THREADS, NARROW, RecordKind, SOCKETCALL, SOCKETCALL_PARTS, Settings,
        Syscall, TEXT_BYTES, TEXTS,
    },
};

use crate::{
    filter,
    kernel::{Ptr, follow, off, read},
    monitor::{self, Task},
    records::OUT,
    registers::{self, X32},
    user_memory::{text, word},
};

/// The greatest error number (include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

/// A thread that makes watched calls, and the one that it is in.
#[repr(C)]
#[derive(Clone, Copy)]
struct Thread {
    /// When it started: with its address, who it is. What is below does not change while it lives.
    started_ns: u64,
    /// When its process started.
    process_started_ns: u64,
    /// Its process's number, as the agent sees it.
    process: u32,
    /// Its call's; [`NONE`] while it is in none.
    number: u32,
    /// When the call began.
    since_ns: u64,
    arguments: [u64; ARGUMENTS],
    /// The control group that was told last.
    told: u64,
}

/// No call has it.
const NONE: u32 = u32::MAX;

/// The path of a program that is executed.
#[repr(C)]
#[derive(Clone, Copy)]
struct Executed {
    length: u64,
    path: [u8; TEXT_BYTES],
}

/// By the task's address: a thread that execs takes another number. They stay, since to put one in and to take it out
/// costs more than all the rest of a call; those that have ended are pushed out in time.
#[btf_map]
static THREADS: LruHashMap<u64, Thread, MAX_THREADS> = LruHashMap::new();
#[btf_map]
static EXECS: LruHashMap<u64, Executed, MAX_EXECS> = LruHashMap::new();
/// Room that the stack does not have.
#[btf_map]
static SCRATCH: PerCpuArray<Executed, 1> = PerCpuArray::new();

/// Some call begins, of this number.
#[inline(always)]
pub(crate) fn begin_any(at: Ptr, number: u32) {
    let number = number & !X32;
    // (there are none of higher numbers, but whoever asks for one comes this way, and is not to name what is numbered behind them)
    if number < MAX_NUMBER
        && (filter::watched(number).is_some() || filter::watched(NARROW + number).is_some())
    {
        begin(at);
    }
}

/// A call begins, with these registers.
#[inline(always)]
pub(crate) fn begin(at: Ptr) {
    let settings = filter::settings();
    let task = Task::running();
    let is_narrow = task.is_narrow();
    if is_narrow && cfg!(bpf_target_arch = "aarch64") {
        return;
    }
    if !filter::admits_user(settings, task) {
        return;
    }
    let started_ns = task.started_ns();
    // SAFETY: a live map value, which only its own task touches.
    let known = THREADS
        .get_ptr_mut(task.address())
        .filter(|thread| unsafe { (**thread).started_ns } == started_ns);
    // (only now: what is read before that has to be kept over it)
    let (mut number, mut arguments) = registers::of_call(at, is_narrow);
    let Some(mut call) = filter::watched(number) else {
        return;
    };
    // (one look for what is rare)
    let mut ends = false;
    if call.flags.intersects(CallFlags::PARTS | CallFlags::ENDS) {
        ends = call.flags.contains(CallFlags::ENDS);
        if !ends {
            let [part, its_arguments, ..] = arguments;
            if part == 0 || part > u64::from(SOCKETCALL_PARTS) {
                return;
            }
            number = SOCKETCALL + part as u32;
            let Some(watched) = filter::watched(number) else {
                return;
            };
            call = watched;
            arguments[0] = its_arguments;
        }
    }
    let since_ns = monitor::now();
    let may_begin_twice = settings.flags.contains(FilterFlags::CHANGING);
    if !ends {
        // SAFETY: does nothing. Without it both conditions become one number, and the verifier (seen on 6.1) does not know that
        // the pointer is none where it is not zero.
        unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
        if let Some(thread) = known {
            // SAFETY: as above.
            unsafe {
                let before = (*thread).number;
                if before != NONE && !(may_begin_twice && before == number) {
                    // it is in a call, and begins another: the end of the first went by
                    OUT.count_loss(LOST_RETURNS);
                }
                (*thread).number = number;
                (*thread).since_ns = since_ns;
                (*thread).arguments = arguments;
            }
            return;
        }
    } else if may_begin_twice
        && let Some(thread) = known
        // SAFETY: as above.
        && unsafe { (*thread).number } == number
    {
        // told already
        return;
    }
    let seen_as = monitor::number_of_current(&settings.within);
    if seen_as == 0 || seen_as == settings.agent {
        return;
    }
    let thread = Thread {
        started_ns,
        process_started_ns: task.process().started_ns(),
        process: seen_as,
        number,
        since_ns,
        arguments,
        told: 0,
    };
    if !ends || may_begin_twice {
        let _ = THREADS.insert(task.address(), &thread, 0);
    }
    if ends && !settings.flags.contains(FilterFlags::ONLY_FAILED) {
        tell(settings, call, &thread, task, 0, None);
    }
}

/// The running task's call returns.
#[inline(always)]
pub(crate) fn end(result: i64) {
    let task = Task::running();
    let Some(thread) = inside(task) else {
        return;
    };
    // SAFETY: a live map value, which only its own task touches.
    let number = unsafe { (*thread).number };
    if let Some(call) = filter::watched(number) {
        let settings = filter::settings();
        let rare = call.flags & (CallFlags::PART | CallFlags::EXEC);
        let is_exec = rare.contains(CallFlags::EXEC);
        let mut executed = None;
        if !rare.is_empty() {
            if is_exec {
                executed = EXECS.get_ptr(task.address());
            } else {
                // SAFETY: as above.
                unsafe { take_arguments(&raw mut (*thread).arguments, call.arguments) };
            }
        }
        if !settings.flags.contains(FilterFlags::ONLY_FAILED) || (-MAX_ERRNO..0).contains(&result) {
            // SAFETY: as above.
            let told = tell(settings, call, unsafe { &*thread }, task, result, executed);
            // SAFETY: as above.
            unsafe { (*thread).told = told };
        }
        if is_exec {
            let _ = EXECS.remove(task.address());
        }
    }
    // SAFETY: as above.
    unsafe { (*thread).number = NONE };
}

/// Of a part of `socketcall(2)`, the arguments that the kernel has read by now from where the first says: so many, for what
/// is behind them may not be there.
///
/// # Safety
///
/// They can be written.
#[inline(always)]
unsafe fn take_arguments(arguments: *mut [u64; ARGUMENTS], count: u32) {
    let mut words = [0_u32; ARGUMENTS];
    let mut length = u64::from(count) * size_of::<u32>() as u64;
    // SAFETY: works on one register. (31: more than the most, of which the verifier sees that there is room for it.)
    unsafe { asm!("{0} &= {1}", inout(reg) length, const 31) };
    if length > size_of_val(&words) as u64 {
        return;
    }
    // SAFETY: the helper checks the address it reads from; no more than there is room for is asked. And see above.
    unsafe {
        let from = (*arguments)[0] as *const _;
        if bpf_probe_read_user(words.as_mut_ptr().cast(), length as u32, from) == 0 {
            *arguments = words.map(u64::from);
        }
    }
}

/// A task that is in a watched call. (Another may have been at this address before, and the end of its call went by.)
#[inline(always)]
fn inside(task: Task) -> Option<*mut Thread> {
    let started_ns = task.started_ns();
    // SAFETY: a live map value, which only its own task touches.
    THREADS.get_ptr_mut(task.address()).filter(|thread| unsafe {
        (**thread).number != NONE && (**thread).started_ns == started_ns
    })
}

/// The running task's exec succeeds: what its arguments were in is gone, and the kernel has the path.
#[inline(always)]
pub(crate) fn executed(bprm: Ptr) {
    let task = Task::running();
    if inside(task).is_none() {
        return;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return;
    };
    let path = follow(bprm, off!(bprm_filename));
    // SAFETY: this processor's own, and nothing else of ours runs on it meanwhile; the helper checks the address.
    unsafe {
        let to = (&raw mut (*scratch).path).cast();
        let length = bpf_probe_read_kernel_str(to, TEXT_BYTES as u32, path.cast());
        (*scratch).length = if length < 0 { 0 } else { length as u64 };
        let _ = EXECS.insert(task.address(), &*scratch, 0);
    }
}

/// The argument at a place.
#[inline(always)]
fn argument(thread: &Thread, place: u8) -> Option<u64> {
    // (one comparison for each, which the verifier can follow, where an index from a map is one it cannot)
    let [a, b, c, d, e, f] = thread.arguments;
    Some(match place {
        1 => a,
        2 => b,
        3 => c,
        4 => d,
        5 => e,
        6 => f,
        _ => return None,
    })
}

/// Tells of a call; gives the control group that is told now.
#[inline(always)]
fn tell(
    settings: &Settings,
    call: &Call,
    thread: &Thread,
    task: Task,
    result: i64,
    executed: Option<*const Executed>,
) -> u64 {
    let told = monitor::group_of_current();
    if thread.told != told {
        OUT.tell_place(told);
    }
    if !filter::admits_group(settings, told) || !filter::has_room(settings, told) {
        return told;
    }
    let Some(mut entry) = OUT.reserve::<Syscall>() else {
        return told;
    };
    let now = monitor::now();
    let record = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size; every field is written before it is submitted, but for what is behind the
    // lengths of texts and address, which nobody looks at.
    unsafe {
        (*record).header = Header {
            kind: RecordKind::Syscall as u32,
            tgid: 0,
            time_ns: now,
        };
        // (now: it would have to be kept over what is above)
        (*record).owner = task
            .process()
            .owner_in(told, thread.process, thread.process_started_ns);
        (*record).arguments = thread.arguments;
        (*record).result = result;
        (*record).duration_ns = now.wrapping_sub(thread.since_ns);
        (*record).number = thread.number;
        (*record).uid = task.uid();
        (*record).reserved = 0;
        for at in 0..TEXTS {
            let to = &raw mut (*record).texts[at];
            (*record).text_lengths[at] = match (argument(thread, call.texts[at]), executed) {
                (None, _) => 0,
                (Some(_), Some(executed)) if result == 0 => {
                    bpf_probe_read_kernel(
                        to.cast(),
                        TEXT_BYTES as u32,
                        (&raw const (*executed).path).cast(),
                    );
                    (*executed).length as u16
                }
                (Some(address), _) => text(address, to),
            };
        }
        (*record).address_length = address(call, thread, &raw mut (*record).address);
    }
    entry.submit(0);
    told
}

/// Reads the address that a call is about; how many bytes it has.
#[inline(always)]
fn address(call: &Call, thread: &Thread, to: *mut [u8; ADDRESS_BYTES]) -> u16 {
    /// `msg_namelen` in `struct msghdr`, which begins with `msg_name` (`recvmsg(2)`), and in that of 32 bits.
    const NAME_LENGTH: u64 = 8;
    const NARROW_NAME_LENGTH: u64 = 4;
    let Some(mut from) = argument(thread, call.address) else {
        return 0;
    };
    let length: u32 =
        if call.flags.contains(CallFlags::MESSAGE) && call.flags.contains(CallFlags::NARROW) {
            let message = from;
            from = u64::from(word::<u32>(message));
            word(message.wrapping_add(NARROW_NAME_LENGTH))
        } else if call.flags.contains(CallFlags::MESSAGE) {
            let message = from;
            from = word(message);
            word(message.wrapping_add(NAME_LENGTH))
        } else {
            match argument(thread, call.address_length) {
                Some(at) if call.flags.contains(CallFlags::LENGTH_BY_POINTER) => word(at),
                Some(length) => length as u32,
                None => 0,
            }
        };
    if from == 0 || length == 0 {
        return 0;
    }
    let mut length = u64::from(length.min(ADDRESS_BYTES as u32 - 1));
    // The comparison may have been of a copy, of which alone the verifier then knows that it is bounded.
    // SAFETY: works on one register.
    unsafe { asm!("{0} &= {1}", inout(reg) length, const ADDRESS_BYTES - 1) };
    // SAFETY: the helper checks the address it reads from; no more than there is room for is asked.
    let failed = unsafe { bpf_probe_read_user(to.cast(), length as u32, from as *const _) };
    if failed == 0 { length as u16 } else { 0 }
}
