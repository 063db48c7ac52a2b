//! Where a file comes from: what the kernel side answers an agent that asks for it, and notes of what is held.

/// The file was reached by the mount that is its process's root, in the process's own mount namespace: not by one that
/// somebody mounted beside it, nor by another container's root.
pub const IN_ROOT: u32 = 1 << 0;
/// Its file system keeps the image below it, and what was changed above (an overlay).
pub const IN_LAYERS: u32 = 1 << 1;
/// Of such a file system: it was made or changed since the container is there.
pub const CHANGED: u32 = 1 << 2;
/// Its file system can never be written.
pub const READ_ONLY: u32 = 1 << 3;
/// Its file system was mounted by somebody whom an agent does not trust: from below a scope, or in a user namespace.
pub const FOREIGN: u32 = 1 << 4;
/// It and each folder above it, up to the root of its process's mount namespace, belong to root, and nobody else may write
/// them. (Where it lies deeper than the kernel side looks, or below mounts that map users otherwise, that is not known.)
pub const ROOTS_ALONE: u32 = 1 << 5;

/// Whether it is of the image that its process's container was made of, as it was then.
#[must_use]
pub const fn is_of_image(answer: u32) -> bool {
    answer & IN_ROOT != 0
        && answer & FOREIGN == 0
        && (answer & READ_ONLY != 0 || answer & (IN_LAYERS | CHANGED) == IN_LAYERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_and_unchanged_is_of_the_image() {
        assert!(is_of_image(IN_ROOT | IN_LAYERS));
        assert!(is_of_image(IN_ROOT | READ_ONLY));
        for not in [
            0,
            IN_ROOT,
            IN_LAYERS,
            IN_ROOT | CHANGED,
            IN_ROOT | IN_LAYERS | CHANGED,
            IN_ROOT | IN_LAYERS | FOREIGN,
            IN_ROOT | READ_ONLY | FOREIGN,
            READ_ONLY,
        ] {
            assert!(!is_of_image(not), "{not:b}");
        }
    }
}
