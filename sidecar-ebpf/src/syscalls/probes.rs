//! Probes of the functions that do the watched calls. Each is given the registers of the program that calls
//! (`asmlinkage long __x64_sys_*(const struct pt_regs *)`, since 4.17; `__arm64_sys_*`, `__ia32_sys_*` and
//! `__ia32_compat_sys_*` likewise).

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{call, kernel::Ptr};

/// A watched call begins.
#[kprobe]
pub fn enter(ctx: ProbeContext) -> u32 {
    if let Some(registers) = ctx.arg::<Ptr>(0) {
        call::begin(registers);
    }
    0
}

/// It returns.
#[kretprobe]
pub fn leave(ctx: RetProbeContext) -> u32 {
    call::end(ctx.ret::<i64>());
    0
}
