//! The shape of the shared kernel side: its version, the sizes of its maps, and where the running
//! kernel keeps the fields the programs read.

use bytemuck::{Pod, Zeroable};

/// Names the directory of pins, `/sys/fs/bpf/kernelseal/v<LAYOUT_VERSION>`. Two agents share a
/// kernel side only if this number is the same; raise it with every change of a type or map.
///
/// A map that changes its shape changes its name, too: a version opens another's maps by name to take
/// over from it, and must not mistake one for the other.
pub const LAYOUT_VERSION: u32 = 6;

/// PID namespaces with an agent of their own, on one node.
pub const MAX_SCOPES: usize = 1024;
/// Program names of all agents on one node (an agent may have 1,000, see `MAX_BINDINGS_PER_SCOPE`).
pub const MAX_BINDINGS: usize = 65_536;
/// Program names of one agent; a name takes one entry however many bindings use it.
pub const MAX_BINDINGS_PER_SCOPE: usize = 1_000;
/// Processes under seal at one time, on one node.
pub const MAX_SEALED: usize = 32_768;
/// Of these, the last so many are for the children of sealed processes: no program is held, and so sealed, that would take one.
pub const SEALED_FOR_FORKS: u32 = 2_048;
/// Of those, the last so many are for children that are being made: a sealed process may not begin to fork where there are
/// no more. The map is never so full that a child could not be sealed.
pub const SEALED_FOR_NEWBORN: u32 = 512;
/// Processes held between their exec and their release at one time, on one node.
pub const MAX_HELD: usize = 4_096;
/// Mounted secret directories (one per process that was given files), on one node.
pub const MAX_VAULTS: usize = 16_384;
/// File systems like those of containers' images that were mounted from below a scope, on one node.
pub const MAX_FOREIGN: usize = 8_192;
/// Slots of the memory of file systems that have nothing to guard; a power of two.
pub const PLAIN_SLOTS: usize = 4_096;
/// Slots of the memory of execs that the first hook has seen; a power of two.
pub const EXEC_SLOTS: usize = 4_096;
/// Maps, programs and links of ours on one node, those of every agent's monitors included.
pub const MAX_OWN_OBJECTS: usize = 65_536;
/// Slots of the filter that tells most program names from those an agent asks for, by their last
/// bytes; a power of two.
pub const NAME_FILTER_SLOTS: u32 = 16_384;
/// Slots of the filter that tells most processes from sealed ones without a hash lookup; a power of
/// two.
pub const SEALED_FILTER_SLOTS: u32 = 4_096;
/// Bytes of one agent's ring buffers together; a power of two.
pub const RING_BYTES: usize = 256 * 1024;
/// Bytes that each of them has at least; a power-of-two number of pages of any architecture here.
pub const RING_BYTES_LEAST: usize = 64 * 1024;
/// Threads of one agent that deliver, each by its own ring buffer, at most; a power of two.
pub const MAX_WORKERS: usize = 8;
/// Longest file name, with its NUL (`NAME_MAX` + 1).
pub const NAME_LEN: usize = 256;
/// Bytes of a task's `comm`, with its NUL (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;
/// Levels below the root at which an agent finds its own control group; the kernel's own limit is
/// none, systemd's and the kubelet's trees have less than ten.
pub const MAX_CGROUP_LEVELS: u32 = 32;
/// Levels a PID namespace can nest (`MAX_PID_NS_LEVEL` in the kernel).
pub const MAX_PID_LEVELS: u32 = 32;

/// Byte offsets of kernel structure fields, read from the running kernel's BTF when the programs
/// are loaded and written into their instructions: [`OFFSET_IN_LOAD`], [`OFFSET_IN_IMMEDIATE`].
///
/// rustc emits no CO-RE relocations; this is what stands in for them. A field that is missing is a
/// refusal to load that names it, never a guess.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Offsets {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.thread_info.status`, on arm64 `.flags`: whether its call is one of 32 bits.
    pub task_narrow: u32,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u32,
    /// `task_struct.pid_links[PIDTYPE_PID]`
    pub task_pid_links: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.ptrace`
    pub task_ptrace: u32,
    /// `task_struct.cred`
    pub task_cred: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.start_boottime`
    pub task_start: u32,
    /// `task_struct.stack`
    pub task_stack: u32,
    /// `task_struct.group_leader`
    pub task_leader: u32,
    /// `task_struct.real_parent`
    pub task_parent: u32,
    /// `task_struct.parent`: who traces it, where somebody does
    pub task_tracer: u32,
    /// `task_struct.blocked`
    pub task_blocked: u32,
    /// `task_struct.__state`, before 5.14 `state`
    pub task_state: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.fs`
    pub task_fs: u32,
    /// `fs_struct.root.mnt`
    pub fs_root_mount: u32,
    /// `task_struct.nsproxy`
    pub task_nsproxy: u32,
    /// `nsproxy.mnt_ns`
    pub nsproxy_mount: u32,
    /// `task_struct.files`
    pub task_files: u32,
    /// `files_struct.fdt`
    pub files_table: u32,
    /// `fdtable.fd`
    pub table_files: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`: in the unified hierarchy
    pub css_set_cgroup: u32,
    /// `cgroup.kn`
    pub cgroup_node: u32,
    /// `kernfs_node.name`
    pub node_name: u32,
    /// `kernfs_node.parent`, since 6.15 `__parent`
    pub node_parent: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `mm_struct.start_stack`
    pub mm_start_stack: u32,
    /// `mm_struct.flags`, of which a word is read
    pub mm_flags: u32,
    /// `cred.euid`
    pub cred_euid: u32,
    /// `cred.uid`
    pub cred_uid: u32,
    /// `cred.egid`
    pub cred_egid: u32,
    /// `linux_binprm.filename`
    pub bprm_filename: u32,
    /// `linux_binprm.interp`
    pub bprm_interp: u32,
    /// `linux_binprm.file`
    pub bprm_file: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `file.f_flags`
    pub file_flags: u32,
    /// `file.f_mode`
    pub file_mode: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `file.f_path.mnt`
    pub file_mount: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `inode.i_uid`
    pub inode_uid: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `inode.i_writecount`
    pub inode_writers: u32,
    /// Bytes of a `struct inode`.
    pub inode_size: u32,
    /// `super_block.s_magic`
    pub sb_magic: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// `super_block.s_user_ns`
    pub sb_user_ns: u32,
    /// `user_namespace.parent`: none of the first one's
    pub userns_parent: u32,
    /// `path.dentry`
    pub path_dentry: u32,
    /// `vfsmount.mnt_sb`
    pub vfsmount_sb: u32,
    /// `vfsmount.mnt_root`
    pub vfsmount_root: u32,
    /// `vfsmount.mnt_idmap`, before 6.2 `mnt_userns`: how it maps users; 0 where no mount does (before 5.12)
    pub vfsmount_idmap: u32,
    /// `mount.mnt`: what a path has of its mount
    pub mount_mnt: u32,
    /// `mount.mnt_parent`
    pub mount_parent: u32,
    /// `mount.mnt_mountpoint`
    pub mount_point: u32,
    /// `mount.mnt_ns`
    pub mount_ns: u32,
    /// `mnt_namespace.ns.inum`
    pub mntns_inum: u32,
    /// `task_struct.nameidata`: the path that it walks
    pub task_walk: u32,
    /// `nameidata.depth`: how many links of it are followed
    pub walk_depth: u32,
    /// `nameidata.stack`: these links
    pub walk_links: u32,
    /// The size of one of them (`struct saved`)
    pub walk_link_size: u32,
    /// `saved.link.dentry`
    pub walk_link_dentry: u32,
    /// `dentry.d_sb`
    pub dentry_sb: u32,
    /// `dentry.d_hash.pprev`: none where it was deleted, or never had a name
    pub dentry_hashed: u32,
    /// `dentry.d_inode`: none where nothing has that name
    pub dentry_inode: u32,
    /// `dentry.d_parent`
    pub dentry_parent: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `dentry.d_name.len`
    pub dentry_name_len: u32,
    /// `dentry.d_iname`, since 6.14 `d_shortname`: where short names are kept
    pub dentry_short_name: u32,
    /// From a procfs inode back to its `proc_inode.pid`: `vfs_inode` minus `pid`.
    pub inode_to_proc_pid: u32,
    /// `pid.tasks[PIDTYPE_PID].first`
    pub pid_first_task: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`
    pub pid_numbers: u32,
    /// `sizeof(struct upid)`
    pub upid_size: u32,
    /// `upid.nr`
    pub upid_nr: u32,
    /// `upid.ns`
    pub upid_ns: u32,
    /// `pid_namespace.ns.inum`
    pub pidns_inum: u32,
    /// `pid_namespace.child_reaper`: its process 1
    pub pidns_reaper: u32,
    /// `bpf_map.id`
    pub map_id: u32,
    /// `bpf_prog.aux`
    pub prog_aux: u32,
    /// `bpf_prog_aux.id`
    pub prog_aux_id: u32,
    /// `pt_regs.orig_ax`, on arm64 `syscallno`, counted back from the structure's end.
    pub regs_syscall_from_end: u32,
    /// The same, counted from the structure's beginning.
    pub regs_syscall: u32,
    /// Not an offset, nor are the following: the number of `bpf(2)` on this architecture.
    pub sys_bpf: u32,
    /// The number of `perf_event_open(2)`.
    pub sys_perf_event_open: u32,
    /// The number of `process_madvise(2)`.
    pub sys_process_madvise: u32,
    /// The number of `process_vm_readv(2)`.
    pub sys_process_vm_readv: u32,
    /// The number of `process_vm_writev(2)`.
    pub sys_process_vm_writev: u32,
    /// `LOCKDOWN_TRACEFS`, whose number is not the same on every kernel.
    pub lockdown_tracefs: u32,
    /// `LOCKDOWN_KCORE`.
    pub lockdown_kcore: u32,
    /// `LOCKDOWN_DEV_MEM`.
    pub lockdown_dev_mem: u32,
    /// 1 where the tracepoint of an exit comes before the memory is given up (6.16).
    pub exit_keeps_memory: u32,
    /// 1 where the hook of a change of attributes has the mount's mapping of users before the file (6.9), else 0.
    pub setattr_has_idmap: u32,
    /// 1 where a program can have the running task with its type (`bpf_get_current_task_btf`, 5.11), else 0.
    pub knows_current: u32,
}

/// Where a load from memory names this offset or up to `size_of::<Offsets>()` more, the loader puts
/// in the field of [`Offsets`] that lies so many bytes from its start. No other load reaches so far.
pub const OFFSET_IN_LOAD: i16 = 0x7000;
/// The same where a register is set to a number: arbitrary, so that no other number is taken for it.
pub const OFFSET_IN_IMMEDIATE: i32 = 0x4b53_0000;

/// Bytes of a kernel stack on `x86_64`, and on arm64 with pages of 4 KiB (`THREAD_SIZE` without KASAN).
pub const THREAD_SIZE: usize = 16 * 1024;
/// Bytes the kernel may leave free above the registers at the top of a stack
/// (`TOP_OF_KERNEL_STACK_PADDING`): none, or 16 where it is built with FRED (`x86_64`). Which one it is,
/// the loader finds out by looking.
pub const STACK_PADDINGS: [usize; 2] = [0, 16];
