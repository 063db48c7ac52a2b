//! `/proc/<pid>/…` of a sealed process, whichever procfs, mount or path leads there: the inode
//! itself says whose it is.

use sidecar_common::{
    event::{WHAT_ENVIRON, WHAT_MAPS, WHAT_MEM, WHAT_NAMED},
    layout::COMM_LEN,
    policy::{SCOPE_BLOCK_ENVIRON, SCOPE_BLOCK_MAPS, SCOPE_BLOCK_MEM, SEALED_AGENT},
    proof::Proof,
};

use super::{Own, Reach, decide, is_written, kernel_files, self_test::fired};
use crate::{
    kernel::{Ptr, follow, load, load_text, off, read},
    sealed,
};

/// A file name in the form it is compared in: at most 15 bytes, NUL-padded.
pub(super) const fn name(text: &[u8]) -> u128 {
    let mut bytes = [0; COMM_LEN];
    let mut i = 0;
    while i < text.len() && i < COMM_LEN - 1 {
        bytes[i] = text[i];
        i += 1;
    }
    u128::from_ne_bytes(bytes)
}

const ENVIRON: u128 = name(b"environ");
const MEM: u128 = name(b"mem");
const STACK: u128 = name(b"stack");
const SYSCALL: u128 = name(b"syscall");
const FD: u128 = name(b"fd");
const FDINFO: u128 = name(b"fdinfo");
const MAPS: u128 = name(b"maps");
const SMAPS: u128 = name(b"smaps");
const SMAPS_ROLLUP: u128 = name(b"smaps_rollup");
const NUMA_MAPS: u128 = name(b"numa_maps");
const PAGEMAP: u128 = name(b"pagemap");
const MAP_FILES: u128 = name(b"map_files");
const AUXV: u128 = name(b"auxv");
const CLEAR_REFS: u128 = name(b"clear_refs");
const COREDUMP_FILTER: u128 = name(b"coredump_filter");

/// What a file of a process's directory shows, and which switch guards it.
#[inline(always)]
fn guarded(file: u128) -> Option<(u32, u32)> {
    match file {
        ENVIRON => Some((WHAT_ENVIRON, SCOPE_BLOCK_ENVIRON)),
        // registers, arguments, descriptors and a core dump are as good as memory
        MEM | STACK | SYSCALL | FD | FDINFO | CLEAR_REFS | COREDUMP_FILTER => {
            Some((WHAT_MEM, SCOPE_BLOCK_MEM))
        }
        MAPS | SMAPS | SMAPS_ROLLUP | NUMA_MAPS | PAGEMAP | MAP_FILES | AUXV => {
            Some((WHAT_MAPS, SCOPE_BLOCK_MAPS))
        }
        _ => None,
    }
}

/// Length and first letter of a name: enough to let most of /proc pass (`stat`, `status`,
/// `cmdline`, `meminfo`) without looking whose it is. Guarded names are short, and short names
/// are kept in the dentry itself.
#[inline(always)]
fn may_be_guarded(dentry: Ptr) -> bool {
    let length: u32 = load!(dentry, dentry_name_len);
    let first: u8 = load!(dentry, dentry_short_name);
    looks_guarded(first, length)
}

#[inline(always)]
const fn looks_guarded(first: u8, length: u32) -> bool {
    matches!(
        (first, length),
        (b'e' | b'p', 7)
            | (b'm', 3 | 4 | 8 | 9)
            | (b's', 5 | 7 | 12 | 13)
            | (b'f', 2 | 6)
            | (b'n', 9)
            | (b'a', 4)
            | (b'c', 10 | 15)
    )
}

/// The quick look lets no guarded name pass.
const _: () = {
    const NAMES: [u128; 15] = [
        ENVIRON,
        MEM,
        STACK,
        SYSCALL,
        FD,
        FDINFO,
        CLEAR_REFS,
        MAPS,
        SMAPS,
        SMAPS_ROLLUP,
        NUMA_MAPS,
        PAGEMAP,
        MAP_FILES,
        AUXV,
        COREDUMP_FILTER,
    ];
    let mut i = 0;
    while i < NAMES.len() {
        let bytes = NAMES[i].to_ne_bytes();
        let mut length = 0;
        while bytes[length as usize] != 0 {
            length += 1;
        }
        assert!(looks_guarded(bytes[0], length));
        i += 1;
    }
};

/// An open of a procfs inode.
#[inline(always)]
pub(super) fn open(file: Ptr, inode: Ptr) -> i32 {
    let dentry: Ptr = load!(file, file_dentry);
    let is_written = is_written(file);
    if !is_written && !may_be_guarded(dentry) {
        return 0;
    }
    match owner(inode) {
        Some(pid) => open_guarded(dentry, pid, is_written),
        None if is_written => kernel_files::write_in_procfs(dentry),
        None => 0,
    }
}

/// A read of one that is open, a write to it, or a listing. What is read was bound to the memory of the open, but for
/// folders, which list what there is now.
#[inline(always)]
pub(super) fn used(file: Ptr, inode: Ptr, is_written: bool) -> i32 {
    let dentry: Ptr = load!(file, file_dentry);
    if !is_written && !may_be_listed(dentry) {
        return 0;
    }
    match owner(inode) {
        Some(pid) => use_guarded(dentry, pid, is_written),
        None if is_written => kernel_files::write_in_procfs(dentry),
        None => 0,
    }
}

/// `proc_inode.pid`: of the process, or in `task/<tid>/` of the thread; none outside of a process's folder.
#[inline(always)]
fn owner(inode: Ptr) -> Option<Ptr> {
    let pid = follow(inode.wrapping_sub(off!(inode_to_proc_pid)), 0);
    (!pid.is_null()).then_some(pid)
}

/// Length and first letter of the guarded folders' names.
#[inline(always)]
fn may_be_listed(dentry: Ptr) -> bool {
    let length: u32 = load!(dentry, dentry_name_len);
    let first: u8 = load!(dentry, dentry_short_name);
    matches!((first, length), (b'f', 2 | 6) | (b'm', 9))
}

/// Apart, like the next one, so that most opens in procfs do not pay for its registers and its stack.
#[inline(never)]
fn open_guarded(dentry: Ptr, pid: Ptr, is_written: bool) -> i32 {
    reach(dentry, pid, is_written, Proof::FileOpen)
}

#[inline(never)]
fn use_guarded(dentry: Ptr, pid: Ptr, is_written: bool) -> i32 {
    reach(dentry, pid, is_written, Proof::FilePermission)
}

#[inline(always)]
fn reach(dentry: Ptr, pid: Ptr, is_written: bool, proof: Proof) -> i32 {
    let link = follow(pid, off!(pid_first_task));
    let task = link.wrapping_sub(off!(task_pid_links));
    let tgid: u32 = read(task, off!(task_tgid));
    let Some(sealed) = sealed::get_with_newborn(task, tgid) else {
        return 0;
    };
    let name: [u8; COMM_LEN] = short_name(dentry);
    let file_name = u128::from_ne_bytes(name);
    let is_agent = sealed.flags & SEALED_AGENT != 0;
    if is_agent {
        fired(proof);
    }
    let (what, guarded_by, own) = if is_agent && is_written && sealed::is_neighbour(sealed.scope) {
        // whatever it is: it changes how the agent runs
        (WHAT_NAMED, 0, Own::Never)
    } else if let Some((what, guarded_by)) = guarded(file_name) {
        // an agent is guarded whatever the policy switches off
        (what, if is_agent { 0 } else { guarded_by }, Own::ByPolicy)
    } else {
        return 0;
    };
    decide(&Reach {
        sealed,
        task,
        tgid,
        what,
        guarded_by,
        own,
        name,
    })
}

/// The first bytes of a file's name, NUL-padded.
#[inline(always)]
pub(super) fn short_name(dentry: Ptr) -> [u8; COMM_LEN] {
    let mut name = [0; COMM_LEN];
    let at = load_text!(dentry, dentry_name);
    // SAFETY: the helper checks the address; it pads nothing, so the buffer starts as zeros.
    let _ = unsafe { aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes(at as Ptr, &mut name) };
    name
}
