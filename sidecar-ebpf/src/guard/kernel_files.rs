//! Files by which the kernel itself is told what to do: those of procfs that belong to no process, and those of sysfs and
//! its kin. Beside an agent nobody opens them for writing, or writes to one that was open before, but for those of a
//! namespace of one's own. What takes hooks off, or blinds a monitor, on the whole node is kept from everybody below the
//! node.

use sidecar_common::{event::Verdict, layout::COMM_LEN};

use super::{
    finish, judge, kernel_interfaces,
    procfs::{name, short_name},
};
use crate::{
    kernel::{self, Ptr, follow, load, off},
    sealed,
};

/// uapi/linux/magic.h
const SYSFS_MAGIC: u64 = 0x6265_6572;
const DEBUGFS_MAGIC: u64 = 0x6462_6720;
const TRACEFS_MAGIC: u64 = 0x7472_6163;
const SECURITYFS_MAGIC: u64 = 0x7363_6673;
const BINFMT_MAGIC: u64 = 0x4249_4e4d;
const SELINUX_MAGIC: u64 = 0xf97c_ff8c;
/// fs/configfs/mount.c
const CONFIGFS_MAGIC: u64 = 0x6265_6570;

/// Whether a file system has such files, and no others.
#[inline(always)]
pub(super) fn is_one(magic: u64) -> bool {
    matches!(
        magic,
        SYSFS_MAGIC
            | DEBUGFS_MAGIC
            | TRACEFS_MAGIC
            | SECURITYFS_MAGIC
            | BINFMT_MAGIC
            | SELINUX_MAGIC
            | CONFIGFS_MAGIC
    )
}

/// A file of a namespace's own, or of no interest: whoever may write it may.
const FREE: u32 = 0;
/// A file of the node's.
const NODE_WIDE: u32 = 1;
/// A file of the node's that takes hooks off, or blinds a monitor.
const SWITCH: u32 = 2;

/// A file that belongs to no process is opened for writing, or written to.
#[inline(always)]
pub(super) fn write_in_procfs(dentry: Ptr) -> i32 {
    decide(class_in_procfs(kernel::untyped(dentry as u64)), dentry)
}

/// The same, in a file system of [`is_one`].
#[inline(always)]
pub(super) fn write_elsewhere(file: Ptr) -> i32 {
    let dentry: Ptr = load!(file, file_dentry);
    decide(class_in_sysfs(kernel::untyped(dentry as u64)), dentry)
}

/// Apart, so that hooks of every open and every read do not pay for its stack.
#[inline(never)]
fn decide(class: u32, dentry: Ptr) -> i32 {
    if class == FREE {
        return 0;
    }
    let pid = kernel::own_pid();
    let is_on_node = kernel::level_of(pid) == 0;
    let Some((number, scope)) = sealed::scope_of(pid) else {
        return if class == SWITCH && !is_on_node {
            kernel::eperm()
        } else {
            0
        };
    };
    let reach = kernel_interfaces::of_nobody(number.namespace, short_name(dentry));
    let verdict = if class == SWITCH {
        // (it is the node's own to do, and its agent hears of it)
        Some(if is_on_node {
            Verdict::Allowed
        } else {
            Verdict::Blocked
        })
    } else if kernel_interfaces::is_kept_from(number.namespace, &scope) {
        judge(&reach)
    } else {
        None
    };
    finish(&reach, verdict)
}

/// Folders within each other, of which sysfs has a dozen.
const DEEPEST: u32 = 24;
const NET: u128 = name(b"net");

/// The first bytes of a file's name, NUL-padded, at any address.
#[inline(always)]
pub(super) fn name_at(dentry: Ptr) -> [u8; COMM_LEN] {
    let mut name = [0; COMM_LEN];
    let at = follow(dentry, off!(dentry_name));
    // SAFETY: the helper checks the address; it pads nothing, so the buffer starts as zeros.
    let _ = unsafe { aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes(at, &mut name) };
    name
}

/// The name of the component of a file's path that lies so many below its file system's root, the file itself being `depth`
/// below it; zeros where there is none.
#[inline(always)]
fn component(dentry: u64, depth: u32, below_root: u32) -> u128 {
    if depth < below_root {
        return 0;
    }
    u128::from_ne_bytes(name_at(climb(dentry, depth - below_root) as Ptr))
}

// Exported functions with scalar arguments, because those are verified once (5.6); and small ones, because of what comes
// after a loop the verifier follows every end of it.

/// How many components a file's path has from its file system's root; more than [`DEEPEST`] where there are more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn depth_of(dentry: u64) -> u32 {
    let mut at = dentry as Ptr;
    for depth in 0..=DEEPEST {
        let parent = follow(at, off!(dentry_parent));
        if parent == at || parent.is_null() {
            return depth;
        }
        at = parent;
    }
    DEEPEST + 1
}

/// The folder so many above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn climb(dentry: u64, steps: u32) -> u64 {
    let mut at = dentry as Ptr;
    for step in 0..=DEEPEST {
        if step >= steps {
            break;
        }
        at = follow(at, off!(dentry_parent));
    }
    at as u64
}

/// Whether a folder called `net` is above, 0 if not.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_below_net(dentry: u64) -> u32 {
    let mut at = follow(dentry as Ptr, off!(dentry_parent));
    for _ in 0..=DEEPEST {
        if u128::from_ne_bytes(name_at(at)) == NET {
            return 1;
        }
        at = follow(at, off!(dentry_parent));
    }
    0
}

/// Of a file of procfs that belongs to no process.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn class_in_procfs(dentry: u64) -> u32 {
    let depth = depth_of(dentry);
    let first = component(dentry, depth, 1);
    // In a process's folder, `net` alone has files that are no process's.
    if first.to_ne_bytes()[0].is_ascii_digit() {
        return FREE;
    }
    if first != name(b"sys") {
        return NODE_WIDE;
    }
    let second = component(dentry, depth, 2);
    if second == NET || second == name(b"user") {
        return FREE;
    }
    let third = component(dentry, depth, 3);
    if second == name(b"fs") && third == name(b"mqueue") {
        FREE
    } else if second == name(b"kernel") && depth == 3 {
        class_of_tunable(third)
    } else {
        NODE_WIDE
    }
}

/// Of `/proc/sys/kernel/…`: those of IPC, UTS and PID namespaces (ipc/ipc_sysctl.c, kernel/utsname_sysctl.c,
/// kernel/pid_namespace.c) are free. As much of a name as is compared.
#[inline(always)]
fn class_of_tunable(file: u128) -> u32 {
    const FREE_ONES: [u128; 15] = [
        name(b"shmmax"),
        name(b"shmall"),
        name(b"shmmni"),
        name(b"shm_rmid_forced"),
        name(b"shm_next_id"),
        name(b"msgmax"),
        name(b"msgmni"),
        name(b"msgmnb"),
        name(b"msg_next_id"),
        name(b"auto_msgmni"),
        name(b"sem"),
        name(b"sem_next_id"),
        name(b"hostname"),
        name(b"domainname"),
        name(b"ns_last_pid"),
    ];
    const FTRACE_ENABLED: u128 = name(b"ftrace_enabled");
    if file == FTRACE_ENABLED {
        return SWITCH;
    }
    let mut i = 0;
    while i < FREE_ONES.len() {
        if file == FREE_ONES[i] {
            return FREE;
        }
        i += 1;
    }
    NODE_WIDE
}

/// Of a file of sysfs and its kin. A network device's are its network namespace's.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn class_in_sysfs(dentry: u64) -> u32 {
    let depth = depth_of(dentry);
    if component(dentry, depth, 1) == name(b"kprobes")
        && component(dentry, depth, 2) == name(b"enabled")
    {
        SWITCH
    } else if is_below_net(dentry) != 0 {
        FREE
    } else {
        NODE_WIDE
    }
}
