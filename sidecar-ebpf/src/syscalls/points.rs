//! Tracepoints: of a successful exec, and those that every call passes, for kernels whose functions cannot be probed.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{call, kernel::Ptr};

/// A call begins, of any kind.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    let registers: Ptr = ctx.arg(0);
    let number: u64 = ctx.arg(1);
    call::begin_any(registers, number as u32);
    0
}

/// One returns.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    call::end(ctx.arg(1));
    0
}

/// A program is executed.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    call::executed(ctx.arg(2));
    0
}
