//! Reading the kernel's own structures: fields at offsets that the loader found in BTF.
//!
//! Two ways, told apart by what the verifier knows of the pointer. [`load!`] is a plain instruction
//! and needs a pointer that came typed from a hook's argument; [`read`] is a helper call, works on
//! any address, and yields zero where nothing is mapped.

mod pids;

use core::{arch::asm, hint::assert_unchecked, mem::MaybeUninit};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{self, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf},
};

pub use self::pids::{
    Number, closest, level_of, namespace_at, number_at, own_nr, own_number, pid_of, start_of_init,
};
pub use crate::{field, load, load_text, off};

/// A kernel structure, at some address.
pub type Ptr = *const u8;

/// A field's offset: a number that the loader puts in.
#[macro_export]
macro_rules! off {
    ($field:ident) => {
        $crate::kernel::offset::<
            {
                sidecar_common::layout::OFFSET_IN_IMMEDIATE
                    + core::mem::offset_of!(sidecar_common::layout::Offsets, $field) as i32
            },
        >()
    };
}

/// See [`off!`]: the number that stands where this mark stood.
#[must_use]
#[inline(always)]
pub fn offset<const MARK: i32>() -> usize {
    let value: u64;
    // SAFETY: sets a register.
    unsafe {
        asm!("{0} = {1}", out(reg) value, const MARK,
            options(pure, nomem, nostack, preserves_flags));
    }
    value as usize
}

/// A field of a structure whose type the verifier knows.
#[macro_export]
macro_rules! load {
    ($base:expr, $field:ident) => {
        $crate::load!($base, $field as _)
    };
    ($base:expr, $field:ident as $kind:ty) => {
        <$kind as $crate::kernel::Load>::load::<
            {
                sidecar_common::layout::OFFSET_IN_LOAD
                    + core::mem::offset_of!(sidecar_common::layout::Offsets, $field) as i16
            },
        >($base)
    };
}

/// What [`load!`] can load.
pub trait Load: Copy {
    /// Loads it from where the loader puts in a field's offset for this mark.
    fn load<const MARK: i16>(base: Ptr) -> Self;
}

macro_rules! impl_load {
    ($($kind:ty, $word:ty, $register:ident, $instruction:literal;)+) => {$(
        impl Load for $kind {
            #[inline(always)]
            fn load<const MARK: i16>(base: Ptr) -> Self {
                let value: $word;
                // SAFETY: the verifier accepts this only for a typed kernel pointer and an offset
                // at which the running kernel's BTF has a field of this size; faults read as zero
                // (BPF_PROBE_MEM). `lateout`: a load over its own base saves the machine code that restores the base.
                unsafe {
                    asm!($instruction, lateout($register) value, in(reg) base,
                        const MARK,
                        options(readonly, nostack, preserves_flags));
                    // The instruction clears the rest of the register; without this the compiler does so once more.
                    assert_unchecked(value <= <$word>::from(Self::MAX));
                }
                value as Self
            }
        }
    )+};
}
impl_load! {
    u8, u32, wreg, "{0} = *(u8 *)({1} + {2})";
    u16, u32, wreg, "{0} = *(u16 *)({1} + {2})";
    u32, u32, wreg, "{0} = *(u32 *)({1} + {2})";
    u64, u64, reg, "{0} = *(u64 *)({1} + {2})";
    usize, usize, reg, "{0} = *(u64 *)({1} + {2})";
}

impl Load for Ptr {
    #[inline(always)]
    fn load<const MARK: i16>(base: Ptr) -> Self {
        usize::load::<MARK>(base) as Ptr
    }
}

/// A `char *` field of a structure whose type the verifier knows, as a plain number.
///
/// Since 6.17 the verifier takes such a field for memory it knows, and refuses it where a number
/// is asked for. Two byte swaps leave the value and take the type away.
#[macro_export]
macro_rules! load_text {
    ($base:expr, $field:ident) => {
        $crate::kernel::untyped($crate::kernel::load!($base, $field))
    };
}

/// A field of the running task ([`own_task`]), or of what one of its fields leads to.
#[macro_export]
macro_rules! field {
    ($base:expr, $field:ident as $kind:ty) => {
        if $crate::kernel::is_typed() {
            $crate::kernel::load!($base, $field as $kind)
        } else {
            $crate::kernel::read::<$kind>($base, $crate::kernel::off!($field))
        }
    };
}

/// See [`load_text!`].
#[inline(always)]
pub fn untyped(mut address: u64) -> u64 {
    // SAFETY: works on one register.
    unsafe { asm!("{0} = be64 {0}", "{0} = be64 {0}", inout(reg) address) };
    address
}

/// The bit of a task's word that is set while a call of 32 bits runs: `TS_COMPAT` (arch/x86/include/asm/thread_info.h).
#[cfg(bpf_target_arch = "x86_64")]
pub const NARROW_CALL: u32 = 1 << 1;
/// The bit of a task's word that is set for a program of 32 bits: `TIF_32BIT` (arch/arm64/include/asm/thread_info.h).
#[cfg(bpf_target_arch = "aarch64")]
pub const NARROW_CALL: u32 = 1 << 22;

/// A field of a structure at any address; zero when it cannot be read.
#[inline(always)]
pub fn read<T: Copy + bytemuck::Zeroable>(base: Ptr, offset: usize) -> T {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }.unwrap_or(T::zeroed())
}

/// A pointer field of a structure at any address; null when it cannot be read.
#[inline(always)]
pub fn follow(base: Ptr, offset: usize) -> Ptr {
    read::<usize>(base, offset) as Ptr
}

/// Bytes at any address; zeros when they cannot be read.
#[inline(always)]
pub fn read_buf<const N: usize>(base: Ptr, offset: usize) -> [u8; N] {
    // Not zeroed first: that is a call to a loop over bytes.
    let mut buf = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper checks the address itself; it writes every byte, zeros where it fails.
    unsafe {
        generated::bpf_probe_read_kernel(
            buf.as_mut_ptr().cast(),
            N as u32,
            base.wrapping_add(offset).cast(),
        );
        buf.assume_init()
    }
}

/// The task that runs, untyped (the typed helper is 5.11).
#[inline(always)]
pub fn current() -> Ptr {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() as usize as Ptr }
}

/// The task that runs, of the type that the verifier knows. Only where there is that helper: `off!(knows_current)`, which the
/// verifier knows, too, so that it never sees a call of what is not there.
#[inline(always)]
pub fn typed_current() -> Ptr {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task_btf() as Ptr }
}

/// Whether a running task's fields can be loaded: a look at one by a helper costs as much as twenty loads. (The verifier
/// knows the answer, and only one way is left of each [`field!`].)
#[inline(always)]
#[must_use]
pub fn is_typed() -> bool {
    off!(knows_current) != 0
}

/// The task that runs, for [`field!`].
#[inline(always)]
#[must_use]
pub fn own_task() -> Ptr {
    if is_typed() {
        typed_current()
    } else {
        current()
    }
}

/// The first thread of the process that runs, for [`field!`].
#[inline(always)]
fn own_leader() -> Ptr {
    field!(own_task(), task_leader as usize) as Ptr
}

/// When the running process started, as [`start_of`] has it.
#[inline(always)]
#[must_use]
pub fn own_start() -> u64 {
    field!(own_leader(), task_start as u64)
}

/// The `struct pid` of the process that runs.
#[inline(always)]
#[must_use]
pub fn own_pid() -> Ptr {
    untyped(field!(own_leader(), task_thread_pid as usize) as u64) as Ptr
}

/// The `struct pid` of the task that runs.
#[inline(always)]
#[must_use]
pub fn own_thread() -> Ptr {
    untyped(field!(own_task(), task_thread_pid as usize) as u64) as Ptr
}

/// Whether the running task is its process's first thread.
#[inline(always)]
pub fn is_leader() -> bool {
    // SAFETY: the helper has no preconditions.
    let ids = unsafe { bpf_get_current_pid_tgid() };
    (ids >> 32) as u32 == ids as u32
}

/// The running process, in the kernel's own numbers.
#[inline(always)]
pub fn current_tgid() -> u32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// The running task, in the kernel's own numbers.
#[inline(always)]
pub fn current_pid() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_pid_tgid() as u32 }
}

/// When a task's process started (boot clock, nanoseconds): with its number, who it is.
#[inline(always)]
pub fn start_of(task: Ptr) -> u64 {
    read(follow(task, off!(task_leader)), off!(task_start))
}

/// The same of a task whose type the verifier knows.
#[inline(always)]
#[must_use]
pub fn start_of_typed(task: Ptr) -> u64 {
    let leader: Ptr = load!(task, task_leader);
    load!(leader, task_start)
}

/// What a descriptor of the running process leads to; while it is open that stays where it is. Null for none.
#[inline(always)]
#[must_use]
pub fn own_file(descriptor: u32) -> Ptr {
    let table = follow(follow(current(), off!(task_files)), off!(files_table));
    let files = follow(table, off!(table_files));
    follow(files, descriptor as usize * size_of::<Ptr>())
}

/// Atomically adds to a counter in a map.
///
/// # Safety
///
/// `counter` must point into a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // Not AtomicU64: the plain add is all 5.10 has (BPF_FETCH is 5.12), and must stay that.
    // SAFETY: as the caller promises.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n) };
}

/// The same for a counter of 32 bits.
///
/// # Safety
///
/// `counter` must point into a map value.
#[inline(always)]
pub unsafe fn add32(counter: *mut u32, n: u32) {
    // SAFETY: as the caller promises.
    unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) counter, in(wreg) n) };
}

/// What a hook says to refuse.
#[inline(always)]
pub fn eperm() -> i32 {
    error::<1>()
}

/// A negative error number in a form the verifier can bound: compilers turn "condition ? -1 : 0" into a
/// negation, which 6.12 cannot see to be in [-4095, 0].
#[inline(always)]
pub fn error<const ERRNO: i64>() -> i32 {
    let value: i64;
    // SAFETY: sets a register.
    unsafe { asm!("{0} = -{1}", out(reg) value, const ERRNO) };
    value as i32
}
