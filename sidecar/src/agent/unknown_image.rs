//! Bindings that want programs of their container's image, where nothing tells an image from what came later.
//!
//! The agent's own root stands for those of its neighbours: one runtime makes them all.

use std::path::Path;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};

use super::{own_cgroup, own_pod};
use crate::{
    config::{Binding, Provenance},
    process::{Process, Whereabouts},
};

/// `EROFS_SUPER_MAGIC_V1`, `SQUASHFS_MAGIC` (uapi/linux/magic.h): nobody writes them.
const NEVER_WRITTEN: [FsType; 2] = [FsType(0xe0f5_e1e2), FsType(0x7371_7368)];
/// What else a runtime makes roots of (`ZFS_SUPER_MAGIC` is of `OpenZFS`).
const NAMES: [(FsType, &str); 6] = [
    (BTRFS_SUPER_MAGIC, "btrfs"),
    (EXT4_SUPER_MAGIC, "ext4"),
    (XFS_SUPER_MAGIC, "xfs"),
    (FsType(0x2fc1_2fc1), "zfs"),
    (FUSE_SUPER_MAGIC, "a FUSE file system"),
    (TMPFS_MAGIC, "tmpfs"),
];
/// So many bindings are named.
const MAX_NAMED: usize = 20;

/// What to warn of, if this is so here.
pub(super) fn find(bindings: &[Binding]) -> Option<String> {
    let wants_image = |binding: &&Binding| {
        matches!(
            binding.selector.provenance_in(true),
            Provenance::Image | Provenance::ImageAndLibraries
        )
    };
    let names: Vec<_> = bindings
        .iter()
        .filter(wants_image)
        .map(|binding| binding.name.as_str())
        .collect();
    if names.is_empty() || !lives_in_a_container() {
        return None;
    }
    // (one that cannot be asked for is no reason to warn)
    let root = statfs(Path::new("/")).ok()?.filesystem_type();
    (!tells_images(root)).then(|| text(&names, root))
}

/// By what a program's container is known, too.
fn lives_in_a_container() -> bool {
    let Ok(mut places) = Whereabouts::new(&own_cgroup(), own_pod(), None) else {
        return true; // what lives where nobody can tell is judged as in a container
    };
    let place = places.of(Process::new(std::process::id()), 0);
    let is_told = place.is_ok_and(|place| place.container.is_none() && place.is_known());
    // (of version 1 a control group namespace hides our own path, and nobody else tells it)
    !is_told || (!places.is_unified() && own_pod().is_some())
}

/// Whether a root of that kind tells what was in the image from what came later.
fn tells_images(root: FsType) -> bool {
    root == OVERLAYFS_SUPER_MAGIC || NEVER_WRITTEN.contains(&root)
}

fn text(names: &[&str], root: FsType) -> String {
    let kind = NAMES.iter().find(|(magic, _)| *magic == root);
    let kind = kind.map_or_else(
        || format!("a file system of type {:#x}", root.0),
        |(_, name)| (*name).to_owned(),
    );
    let more = names.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let told = names[..names.len().min(MAX_NAMED)].join(", ");
    format!(
        "the root of this container is {kind}, which does not tell the image from what came later. Programs in such containers get no secrets by {told}{more}. Set `selector.provenance: any` there (any program of that name then gets the secrets), or an absolute path with `sha256`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_an_overlay_or_never_written_tells_images() {
        for root in [OVERLAYFS_SUPER_MAGIC, NEVER_WRITTEN[0], NEVER_WRITTEN[1]] {
            assert!(tells_images(root));
        }
        for (root, name) in NAMES {
            assert!(!tells_images(root), "{name}");
        }
    }

    #[test]
    fn a_warning_names_file_system_bindings_and_key() {
        let told = text(&["a", "b"], BTRFS_SUPER_MAGIC);
        for part in [
            "is btrfs,",
            "by a, b.",
            "`selector.provenance: any`",
            "`sha256`",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(text(&["a"], FsType(0x1234)).contains("type 0x1234"));
        let many = ["x"; MAX_NAMED + 2];
        assert!(text(&many, BTRFS_SUPER_MAGIC).contains("x and 2 more."));
    }
}
