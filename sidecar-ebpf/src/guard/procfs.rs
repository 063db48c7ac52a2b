//! `/proc/<pid>/…` of a sealed process, whichever procfs, mount or path leads there: the inode
//! itself says whose it is.

use sidecar_common::{
    event::AccessKind,
    layout::COMM_LEN,
    policy::{ScopeFlags, SealedFlags},
    proof::Proof,
};

use super::{
    AccessRequest, PROC_MAGIC, SelfAccess, decide, is_written, kernel_files, self_test::fired,
};
use crate::{
    kernel::{self, Ptr, field, follow, load, load_text, off, read},
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

/// Everything that the hooks compare, of the table of [`sidecar_common::guarded_files`].
macro_rules! compare {
    (
        files { $($file:ident $file_name:literal: $file_shows:ident, $file_switch:ident;)* }
        folders { $($folder:ident $folder_name:literal: $folder_shows:ident, $folder_switch:ident;)* }
    ) => {
        /// The names themselves.
        mod whole {
            $(pub(super) const $file: u128 = super::whole_name($file_name);)*
            $(pub(super) const $folder: u128 = super::whole_name($folder_name);)*
        }

        /// First letter and length of each.
        mod shape {
            $(pub(super) const $file: (u8, u32) = super::shape_of($file_name);)*
            $(pub(super) const $folder: (u8, u32) = super::shape_of($folder_name);)*
        }

        /// What a file of a process's directory shows, and which switch guards it.
        #[inline(always)]
        fn guarded(file: u128) -> Option<(AccessKind, ScopeFlags)> {
            match file {
                $(whole::$file => Some((AccessKind::$file_shows, ScopeFlags::$file_switch)),)*
                $(whole::$folder => Some((AccessKind::$folder_shows, ScopeFlags::$folder_switch)),)*
                _ => None,
            }
        }

        #[inline(always)]
        #[expect(unreachable_patterns, reason = "some names have the same shape")]
        const fn looks_guarded(first: u8, length: u32) -> bool {
            matches!((first, length), $(shape::$file)|* | $(shape::$folder)|*)
        }

        #[inline(always)]
        const fn looks_listed(first: u8, length: u32) -> bool {
            matches!((first, length), $(shape::$folder)|*)
        }
    };
}

/// A guarded name, all of which is compared.
const fn whole_name(text: &str) -> u128 {
    assert!(text.len() < COMM_LEN);
    name(text.as_bytes())
}

const fn shape_of(text: &str) -> (u8, u32) {
    (text.as_bytes()[0], text.len() as u32)
}

sidecar_common::guarded_files!(compare);

/// Length and first letter of a name: enough to let most of /proc pass (`stat`, `status`,
/// `cmdline`, `meminfo`) without looking whose it is. Guarded names are short, and short names
/// are kept in the dentry itself.
#[inline(always)]
fn may_be_guarded(dentry: Ptr) -> bool {
    let length: u32 = load!(dentry, dentry_name_len);
    let first: u8 = load!(dentry, dentry_short_name);
    looks_guarded(first, length)
}

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

/// What of a process's links is left to everybody: where its program lies, where it works, and its root.
const FREE_LINKS: [u128; 3] = [name(b"exe"), name(b"cwd"), name(b"root")];
/// The folder of the links to its namespaces, which are left, too.
const NAMESPACES: u128 = name(b"ns");

/// The folder of the link in a process's folder that the running task follows just now, where that is not a link that is left
/// to everybody: it leads to what the process has open (`fd`: a pipe, a memfd, a file without a name) or mapped (`map_files`).
///
/// The kernel asks the same ptrace check before it tells where such a link leads (`readlink`, which walks no path then) and
/// before it goes there (fs/proc/base.c, `proc_pid_get_link`).
#[inline(always)]
pub(super) fn followed_link() -> Option<[u8; COMM_LEN]> {
    // (none, where it walks no path)
    let walk = kernel::untyped(field!(kernel::own_task(), task_walk as u64)) as Ptr;
    // fs/namei.c, `pick_link`: the link that is followed is the last of the stack.
    let last = read::<u32>(walk, off!(walk_depth)).checked_sub(1)?;
    let link = follow(walk, off!(walk_links)).wrapping_add(last as usize * off!(walk_link_size));
    let dentry = follow(link, off!(walk_link_dentry));
    let sb = follow(dentry, off!(dentry_sb));
    if read::<u64>(sb, off!(sb_magic)) != PROC_MAGIC {
        return None;
    }
    let name = kernel_files::name_at(dentry);
    if FREE_LINKS.contains(&u128::from_ne_bytes(name)) {
        return None;
    }
    let folder = kernel_files::name_at(follow(dentry, off!(dentry_parent)));
    (u128::from_ne_bytes(folder) != NAMESPACES).then_some(folder)
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
    looks_listed(first, length)
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
    let is_agent = sealed.flags.contains(SealedFlags::AGENT);
    if is_agent {
        fired(proof);
    }
    let (what, guarded_by, own) = if is_agent && is_written && sealed::is_neighbour(sealed.scope) {
        // whatever it is: it changes how the agent runs
        (AccessKind::Named, ScopeFlags::empty(), SelfAccess::Never)
    } else if let Some((what, guarded_by)) = guarded(file_name) {
        // an agent is guarded whatever the policy switches off
        (
            what,
            if is_agent {
                ScopeFlags::empty()
            } else {
                guarded_by
            },
            SelfAccess::ByPolicy,
        )
    } else {
        return 0;
    };
    decide(&AccessRequest {
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
