//! Where the running kernel keeps the fields our programs read, from its own BTF.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use btf_rs::{Backend, Btf, BtfType as _, Struct, Type};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use sidecar_common::layout::Offsets;

use super::{Error, network, version::version};
use crate::util::error_chain;

/// Since when mounts can map users.
const MOUNTS_WITH_IDMAPS: (u32, u32) = (5, 12);

/// Where a system call's registers have its number.
const SYSCALL_IN_REGISTERS: &str = if cfg!(target_arch = "aarch64") {
    "pt_regs.syscallno"
} else {
    "pt_regs.orig_ax"
};

/// Where a thread tells that its call is one of 32 bits.
const NARROW_WORD: &str = if cfg!(target_arch = "aarch64") {
    "thread_info.flags"
} else {
    "thread_info.status"
};

/// The helper that gives the running task with its type.
const TYPED_CURRENT: &str = "BPF_FUNC_get_current_task_btf";

/// How the kernel names a hook's function (`include/linux/bpf_lsm.h`).
pub(super) const HOOK: &str = "bpf_lsm_";

/// The running kernel's description of its own types.
pub(crate) const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Looks up every field of [`Offsets`].
#[expect(clippy::too_many_lines, reason = "a table: a line a field")]
pub(super) fn resolve(types: &Types) -> Result<Offsets, Error> {
    let at = |path: &str| types.offset(path);
    let followed = types.behind("nameidata", "stack")?;
    let lockdown_reason = |name: &str| types.number_in("lockdown_reason", name);
    Ok(Offsets {
        task_tgid: at("task_struct.tgid")?,
        task_pid: at("task_struct.pid")?,
        task_narrow: at("task_struct.thread_info")? + at(NARROW_WORD)?,
        task_thread_pid: at("task_struct.thread_pid")?,
        task_pid_links: at("task_struct.pid_links")?,
        task_signal: at("task_struct.signal")?,
        task_mm: at("task_struct.mm")?,
        task_ptrace: at("task_struct.ptrace")?,
        task_cred: at("task_struct.cred")?,
        task_comm: at("task_struct.comm")?,
        task_start: at("task_struct.start_boottime")?,
        task_stack: at("task_struct.stack")?,
        task_leader: at("task_struct.group_leader")?,
        task_parent: at("task_struct.real_parent")?,
        task_tracer: at("task_struct.parent")?,
        task_blocked: at("task_struct.blocked")?,
        task_state: at("task_struct.__state").or_else(|_| at("task_struct.state"))?,
        task_exit_code: at("task_struct.exit_code")?,
        task_fs: at("task_struct.fs")?,
        fs_root_mount: at("fs_struct.root.mnt")?,
        task_nsproxy: at("task_struct.nsproxy")?,
        nsproxy_mount: at("nsproxy.mnt_ns")?,
        task_files: at("task_struct.files")?,
        files_table: at("files_struct.fdt")?,
        table_files: at("fdtable.fd")?,
        task_cgroups: at("task_struct.cgroups")?,
        css_set_cgroup: at("css_set.dfl_cgrp")?,
        cgroup_node: at("cgroup.kn")?,
        node_name: at("kernfs_node.name")?,
        node_parent: at("kernfs_node.parent").or_else(|_| at("kernfs_node.__parent"))?,
        signal_live: at("signal_struct.live")?,
        mm_start_stack: at("mm_struct.start_stack")?,
        mm_flags: at("mm_struct.flags")?,
        cred_euid: at("cred.euid")?,
        cred_uid: at("cred.uid")?,
        cred_egid: at("cred.egid")?,
        bprm_filename: at("linux_binprm.filename")?,
        bprm_interp: at("linux_binprm.interp")?,
        bprm_file: at("linux_binprm.file")?,
        file_inode: at("file.f_inode")?,
        file_flags: at("file.f_flags")?,
        file_mode: at("file.f_mode")?,
        file_dentry: at("file.f_path.dentry")?,
        file_mount: at("file.f_path.mnt")?,
        inode_sb: at("inode.i_sb")?,
        inode_ino: at("inode.i_ino")?,
        inode_uid: at("inode.i_uid")?,
        inode_mode: at("inode.i_mode")?,
        inode_writers: at("inode.i_writecount")?,
        inode_size: types.size("inode")?,
        sb_magic: at("super_block.s_magic")?,
        sb_dev: at("super_block.s_dev")?,
        sb_user_ns: at("super_block.s_user_ns")?,
        userns_parent: at("user_namespace.parent")?,
        path_dentry: at("path.dentry")?,
        vfsmount_sb: at("vfsmount.mnt_sb")?,
        vfsmount_root: at("vfsmount.mnt_root")?,
        vfsmount_idmap: types.idmap_of_mount()?,
        mount_mnt: at("mount.mnt")?,
        mount_parent: at("mount.mnt_parent")?,
        mount_point: at("mount.mnt_mountpoint")?,
        mount_ns: at("mount.mnt_ns")?,
        mntns_inum: at("mnt_namespace.ns.inum")?,
        task_walk: at("task_struct.nameidata")?,
        walk_depth: at("nameidata.depth")?,
        walk_links: at("nameidata.stack")?,
        walk_link_size: types.size_of(&followed)?,
        walk_link_dentry: types.offset_in(&followed, "link.dentry")?,
        dentry_sb: at("dentry.d_sb")?,
        dentry_hashed: at("dentry.d_hash.pprev")?,
        dentry_inode: at("dentry.d_inode")?,
        dentry_parent: at("dentry.d_parent")?,
        dentry_name: at("dentry.d_name.name")?,
        dentry_name_len: at("dentry.d_name.len")?,
        dentry_short_name: at("dentry.d_iname").or_else(|_| at("dentry.d_shortname"))?,
        inode_to_proc_pid: at("proc_inode.vfs_inode")? - at("proc_inode.pid")?,
        pid_first_task: at("pid.tasks")?,
        pid_level: at("pid.level")?,
        pid_numbers: at("pid.numbers")?,
        upid_size: types.size("upid")?,
        upid_nr: at("upid.nr")?,
        upid_ns: at("upid.ns")?,
        pidns_inum: at("pid_namespace.ns.inum")?,
        pidns_reaper: at("pid_namespace.child_reaper")?,
        map_id: at("bpf_map.id")?,
        prog_aux: at("bpf_prog.aux")?,
        prog_aux_id: at("bpf_prog_aux.id")?,
        regs_syscall_from_end: types.size("pt_regs")? - at(SYSCALL_IN_REGISTERS)?,
        regs_syscall: at(SYSCALL_IN_REGISTERS)?,
        sys_bpf: number(libc::SYS_bpf)?,
        sys_perf_event_open: number(libc::SYS_perf_event_open)?,
        sys_process_madvise: number(libc::SYS_process_madvise)?,
        sys_process_vm_readv: number(libc::SYS_process_vm_readv)?,
        sys_process_vm_writev: number(libc::SYS_process_vm_writev)?,
        lockdown_tracefs: lockdown_reason("LOCKDOWN_TRACEFS")?,
        lockdown_kcore: lockdown_reason("LOCKDOWN_KCORE")?,
        lockdown_dev_mem: lockdown_reason("LOCKDOWN_DEV_MEM")?,
        exit_keeps_memory: u32::from(types.exit_keeps_memory()?),
        setattr_has_idmap: u32::from(types.setattr_has_idmap()?),
        knows_current: types.number_in("bpf_func_id", TYPED_CURRENT).is_ok().into(),
    })
}

/// A system call's number, as the kernel keeps it.
fn number(syscall: libc::c_long) -> Result<u32, Error> {
    u32::try_from(syscall).map_err(|cause| Error::Btf {
        what: format!("system call {syscall}"),
        cause: cause.to_string(),
    })
}

/// The types that it describes.
pub(super) struct Types {
    btf: Btf,
    /// The numbers of its structures, enumerations, type definitions and hooks, by name: a search for one name would read all.
    named: HashMap<String, Vec<u32>>,
}

impl Types {
    pub(super) fn of_running_kernel() -> Result<Self, Error> {
        if !Path::new(VMLINUX_BTF).exists() {
            return Err(Error::NoBtf);
        }
        let btf = mapped().map_err(|cause| Error::Btf {
            what: VMLINUX_BTF.into(),
            cause: error_chain(cause.as_ref()),
        })?;
        let mut named: HashMap<String, Vec<u32>> = HashMap::new();
        // Number 0 is `void`.
        let types = (1..).map_while(|number| Some((number, btf.resolve_type_by_id(number).ok()?)));
        for (number, found) in types {
            let name = match &found {
                Type::Struct(found) => btf.resolve_name(found),
                Type::Enum(found) => btf.resolve_name(found),
                Type::Typedef(found) => btf.resolve_name(found),
                Type::Func(found) => btf.resolve_name(found),
                _ => continue,
            };
            let name = name.unwrap_or_default();
            // (of functions, nobody asks for others)
            let is_asked_for = name.starts_with(HOOK) || name == network::ACCEPTED;
            if !matches!(found, Type::Func(_)) || is_asked_for {
                named.entry(name).or_default().push(number);
            }
        }
        Ok(Self { btf, named })
    }

    /// The numbers of those of a name, in the kernel's order.
    pub(super) fn numbers(&self, name: &str) -> &[u32] {
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// The number of the one of a name.
    pub(super) fn number(&self, name: &str) -> Result<u32, Error> {
        let first = self.numbers(name).first().copied();
        first.ok_or_else(|| Error::Btf {
            what: name.into(),
            cause: "this kernel's BTF has no such type".into(),
        })
    }

    /// Those of a name, in the kernel's order.
    fn of(&self, name: &str) -> impl Iterator<Item = Type> {
        let numbers = self.numbers(name).iter();
        numbers.filter_map(|number| self.btf.resolve_type_by_id(*number).ok())
    }

    /// Whether `sched_process_exit` comes before the memory is given up: it was moved there by the
    /// change that gave it a second argument, `group_dead` (6.16).
    fn exit_keeps_memory(&self) -> Result<bool, Error> {
        // The tracepoint's own arguments follow one for its data.
        Ok(self.parameters_of("btf_trace_sched_process_exit")? > 2)
    }

    /// Whether `inode_setattr` is told of the mount's mapping of users first: the change that did so gave it a third
    /// argument (6.9).
    fn setattr_has_idmap(&self) -> Result<bool, Error> {
        Ok(self.parameters_of("bpf_lsm_inode_setattr")? > 2)
    }

    /// Where a mount has how it maps users; 0 of a kernel whose mounts cannot.
    fn idmap_of_mount(&self) -> Result<u32, Error> {
        let named = |name: &str| self.offset(&format!("vfsmount.{name}"));
        match named("mnt_idmap").or_else(|_| named("mnt_userns")) {
            Err(_) if version() < MOUNTS_WITH_IDMAPS => Ok(0),
            found => found,
        }
    }

    /// How many parameters the function, or tracepoint's prototype, of that name has.
    fn parameters_of(&self, name: &str) -> Result<usize, Error> {
        self.of(name)
            .find_map(|found| self.parameters(&found))
            .ok_or_else(|| Error::Btf {
                what: name.into(),
                cause: "this kernel's BTF has no such function".into(),
            })
    }

    /// How many parameters the function has that a type leads to.
    fn parameters(&self, of: &Type) -> Option<usize> {
        match of {
            Type::FuncProto(proto) => Some(proto.parameters.len()),
            other => {
                let target = other.as_btf_type()?.get_type_id()?;
                self.parameters(&self.btf.resolve_type_by_id(target).ok()?)
            }
        }
    }

    /// The number of one of an enumeration's names.
    fn number_in(&self, enumeration: &str, name: &str) -> Result<u32, Error> {
        self.of(enumeration)
            .find_map(|found| match found {
                Type::Enum(all) => all.members.into_iter().find_map(|member| {
                    (self.btf.resolve_name(&member).ok()? == name).then(|| member.val())
                }),
                _ => None,
            })
            .ok_or_else(|| Error::Btf {
                what: format!("enum {enumeration}"),
                cause: format!("this kernel's BTF has no {name} in it"),
            })
    }

    fn find(&self, name: &str) -> Result<Struct, Error> {
        self.of(name)
            .find_map(|found| match found {
                Type::Struct(found) => Some(found),
                _ => None,
            })
            .ok_or_else(|| Error::Btf {
                what: format!("struct {name}"),
                cause: "this kernel's BTF has no such type".into(),
            })
    }

    fn size(&self, name: &str) -> Result<u32, Error> {
        self.size_of(&self.find(name)?)
    }

    fn size_of(&self, structure: &Struct) -> Result<u32, Error> {
        let size = structure.size();
        u32::try_from(size).map_err(|_| Error::Btf {
            what: format!(
                "struct {}",
                self.btf.resolve_name(structure).unwrap_or_default()
            ),
            cause: format!("its size, {size}, cannot be"),
        })
    }

    /// The structure to which a field is a pointer. (Its own name may be that of others, too.)
    fn behind(&self, structure: &str, field: &str) -> Result<Struct, Error> {
        let found = self.member(&self.find(structure)?, field);
        found
            .and_then(|(_, type_id)| self.aggregate(type_id))
            .ok_or_else(|| Error::Btf {
                what: format!("{structure}.{field}"),
                cause: "this kernel's BTF has no such pointer to a structure".into(),
            })
    }

    /// The byte offset of `struct.field` or `struct.field.field`.
    pub(super) fn offset(&self, path: &str) -> Result<u32, Error> {
        let (structure, fields) = path.split_once('.').unwrap_or((path, ""));
        self.offset_in(&self.find(structure)?, fields)
    }

    /// The byte offset of `field` or `field.field` in a structure.
    fn offset_in(&self, structure: &Struct, path: &str) -> Result<u32, Error> {
        let missing = |cause: &str| Error::Btf {
            what: format!(
                "{}.{path}",
                self.btf.resolve_name(structure).unwrap_or_default()
            ),
            cause: cause.into(),
        };
        let mut within = structure.clone();
        let mut bits = 0;
        let mut fields = path.split('.').peekable();
        while let Some(field) = fields.next() {
            let (offset, type_id) = self
                .member(&within, field)
                .ok_or_else(|| missing("this kernel's BTF has no such field"))?;
            bits += offset;
            if fields.peek().is_some() {
                within = self
                    .aggregate(type_id)
                    .ok_or_else(|| missing("the outer field is not a structure"))?;
            }
        }
        Ok(bits / 8)
    }

    /// A member's bit offset and type, in the structure or an anonymous part of it.
    fn member(&self, within: &Struct, name: &str) -> Option<(u32, u32)> {
        within.members.iter().find_map(|member| {
            let type_id = member.get_type_id()?;
            let found = self.btf.resolve_name(member).unwrap_or_default();
            if found == name {
                return Some((member.bit_offset(), type_id));
            }
            if !found.is_empty() {
                return None;
            }
            let (offset, type_id) = self.member(&self.aggregate(type_id)?, name)?;
            Some((member.bit_offset() + offset, type_id))
        })
    }

    /// The structure or union behind a type, through qualifiers and typedefs.
    fn aggregate(&self, type_id: u32) -> Option<Struct> {
        match self.btf.resolve_type_by_id(type_id).ok()? {
            Type::Struct(found) | Type::Union(found) => Some(found),
            other => self.aggregate(other.as_btf_type()?.get_type_id()?),
        }
    }
}

/// Reads types where they lie, and not each into memory of its own: that takes four times as long, and 33 MB more. The
/// file itself can be mapped since 6.16 only.
fn mapped() -> Result<Btf, Box<dyn std::error::Error>> {
    let mut copy = File::from(memfd_create(c"btf", MFdFlags::MFD_CLOEXEC)?);
    copy.write_all(&fs::read(VMLINUX_BTF)?)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(Btf::from_file_with_backend(path, Backend::Mmap)?)
}
