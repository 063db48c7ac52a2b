//! One system call, from its beginning to its end.
//!
//! Registers are kept at the beginning: the program may reuse them. What they point to is read at the end, when the
//! kernel has read it too: before, it may not be in memory, and what the kernel writes is not there yet. Of a program
//! that execs, nothing is left at the end: there the kernel's own copy of the path is kept.

use core::arch::asm;

use aya_ebpf::{
    btf_maps::{LruHashMap, PerCpuArray},
    helpers::generated::{
        bpf_get_current_uid_gid, bpf_probe_read_kernel, bpf_probe_read_kernel_str,
        bpf_probe_read_user, bpf_probe_read_user_str,
    },
    macros::btf_map,
};
use sidecar_common::{
    event::Header,
    syscall::{
        ADDRESS_BYTES, ARGUMENTS, CALL_ENDS, CALL_EXEC, CALL_LENGTH_BY_POINTER, CALL_MESSAGE, Call,
        KIND_SYSCALL, LOST_RETURNS, MAX_EXECS, MAX_INSIDE, ONLY_FAILED, Settings, Syscall,
        TEXT_BYTES, TEXTS,
    },
};

use crate::{
    filter,
    kernel::{self, Ptr, follow, off, read},
    monitor,
    records::OUT,
};

/// The greatest error number (include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

/// A call that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
struct Begun {
    since_ns: u64,
    arguments: [u64; ARGUMENTS],
    number: u32,
    reserved: u32,
}

/// The path of a program that is executed.
#[repr(C)]
#[derive(Clone, Copy)]
struct Executed {
    length: u64,
    path: [u8; TEXT_BYTES],
}

/// By the task's address: a thread that execs takes another number. What nobody saw return is pushed out in time.
#[btf_map]
static INSIDE: LruHashMap<u64, Begun, MAX_INSIDE> = LruHashMap::new();
#[btf_map]
static EXECS: LruHashMap<u64, Executed, MAX_EXECS> = LruHashMap::new();
/// Room that the stack does not have.
#[btf_map]
static SCRATCH: PerCpuArray<Executed, 1> = PerCpuArray::new();

/// A call begins, with these registers; `number` where the caller knows it.
#[inline(always)]
pub(crate) fn begin(registers: Ptr, number: Option<u32>) {
    let Some(settings) = filter::settings() else {
        return;
    };
    let number =
        number.unwrap_or_else(|| read::<u64>(registers, settings.number_at as usize) as u32);
    let Some(call) = filter::watched(number) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let uid = unsafe { bpf_get_current_uid_gid() } as u32;
    if !filter::admits_user(settings, uid) {
        return;
    }
    let process = monitor::number_of_current(settings.scope, settings.level);
    if process == 0 || process == settings.agent {
        return;
    }
    let mut begun = Begun {
        since_ns: monitor::now(),
        arguments: [0; ARGUMENTS],
        number,
        reserved: 0,
    };
    for (at, argument) in settings.arguments_at.iter().zip(&mut begun.arguments) {
        *argument = read(registers, *at as usize);
    }
    if call.flags & CALL_ENDS != 0 {
        if settings.flags & ONLY_FAILED == 0 {
            tell(settings, call, &begun, 0, None);
        }
        return;
    }
    let task = kernel::current() as u64;
    if INSIDE.get_ptr(task).is_some() {
        // it is in a call, and begins another: the end of the first went by
        OUT.count_loss(LOST_RETURNS);
    }
    let _ = INSIDE.insert(task, &begun, 0);
}

/// The running task's call returns.
#[inline(always)]
pub(crate) fn end(result: i64) {
    let task = kernel::current() as u64;
    let Some(begun) = INSIDE.get_ptr(task) else {
        return;
    };
    // SAFETY: a live map value, which only its own task touches.
    let begun = unsafe { *begun };
    let _ = INSIDE.remove(task);
    let (Some(settings), Some(call)) = (filter::settings(), filter::watched(begun.number)) else {
        return;
    };
    let is_wanted = settings.flags & ONLY_FAILED == 0 || (-MAX_ERRNO..0).contains(&result);
    if call.flags & CALL_EXEC == 0 {
        if is_wanted {
            tell(settings, call, &begun, result, None);
        }
        return;
    }
    if is_wanted {
        tell(settings, call, &begun, result, EXECS.get_ptr(task));
    }
    let _ = EXECS.remove(task);
}

/// The running task's exec succeeds: what its arguments were in is gone, and the kernel has the path.
#[inline(always)]
pub(crate) fn executed(bprm: Ptr) {
    let task = kernel::current() as u64;
    if INSIDE.get_ptr(task).is_none() {
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
        let _ = EXECS.insert(task, &*scratch, 0);
    }
}

/// The argument at a place.
#[inline(always)]
fn argument(begun: &Begun, place: u8) -> Option<u64> {
    // (one comparison for each, which the verifier can follow, where an index from a map is one it cannot)
    let [a, b, c, d, e, f] = begun.arguments;
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

/// Reads a text of the running program's; how many bytes it has, with its NUL.
#[inline(always)]
fn text(address: u64, to: *mut [u8; TEXT_BYTES]) -> u16 {
    // SAFETY: the helper checks the address it reads from, and writes so many bytes at the most.
    let length =
        unsafe { bpf_probe_read_user_str(to.cast(), TEXT_BYTES as u32, address as *const _) };
    if length < 0 { 0 } else { length as u16 }
}

/// A word of the running program's.
#[inline(always)]
fn word<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address it reads from.
    unsafe {
        bpf_probe_read_user(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
    }
    value
}

#[inline(always)]
fn tell(
    settings: &Settings,
    call: &Call,
    begun: &Begun,
    result: i64,
    executed: Option<*const Executed>,
) {
    let Some(owner) = OUT.owner(settings.scope, settings.level) else {
        return;
    };
    if !filter::admits_group(settings, owner.cgroup) || !filter::has_room(settings, owner.cgroup) {
        return;
    }
    let Some(mut entry) = OUT.reserve::<Syscall>() else {
        return;
    };
    let now = monitor::now();
    let record = entry.as_mut_ptr();
    // SAFETY: reserved memory of this size; every field is written before it is submitted, but for what is behind the
    // lengths of texts and address, which nobody looks at.
    unsafe {
        (*record).header = Header {
            kind: KIND_SYSCALL,
            tgid: 0,
            time_ns: now,
        };
        (*record).owner = owner;
        (*record).arguments = begun.arguments;
        (*record).result = result;
        (*record).duration_ns = now.wrapping_sub(begun.since_ns);
        (*record).number = begun.number;
        (*record).uid = bpf_get_current_uid_gid() as u32;
        (*record).reserved = 0;
        for at in 0..TEXTS {
            let to = &raw mut (*record).texts[at];
            (*record).text_lengths[at] = match (argument(begun, call.texts[at]), executed) {
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
        (*record).address_length = address(call, begun, &raw mut (*record).address);
    }
    entry.submit(0);
}

/// Reads the address that a call is about; how many bytes it has.
#[inline(always)]
fn address(call: &Call, begun: &Begun, to: *mut [u8; ADDRESS_BYTES]) -> u16 {
    /// `msg_namelen` in `struct msghdr`, which begins with `msg_name` (`recvmsg(2)`).
    const NAME_LENGTH: u64 = 8;
    let Some(mut from) = argument(begun, call.address) else {
        return 0;
    };
    let length: u32 = if call.flags & CALL_MESSAGE != 0 {
        let message = from;
        from = word(message);
        word(message.wrapping_add(NAME_LENGTH))
    } else {
        match argument(begun, call.address_length) {
            Some(at) if call.flags & CALL_LENGTH_BY_POINTER != 0 => word(at),
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
