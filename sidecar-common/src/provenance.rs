//! Where a file comes from: what the kernel side answers an agent that asks for it, and notes of what is held.

use bitflags::bitflags;
use bytemuck::{Pod, Zeroable};

bitflags! {
    /// Where a file comes from.
    #[repr(transparent)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    pub struct FileOrigin: u32 {
        /// The file was reached by the mount that is its process's root, in the process's own mount namespace: not by one that
        /// somebody mounted beside it, nor by another container's root.
        const IN_ROOT = 1 << 0;
        /// Its file system keeps the image below it, and what was changed above (an overlay).
        const IN_LAYERS = 1 << 1;
        /// Of such a file system: it was made or changed since the container is there.
        const CHANGED = 1 << 2;
        /// Its file system can never be written.
        const READ_ONLY = 1 << 3;
        /// Its file system was mounted by somebody whom an agent does not trust: from below a scope, or in a user namespace.
        const FOREIGN = 1 << 4;
        /// It and each folder above it, up to the root of its process's mount namespace, belong to root, and nobody else may write
        /// them. (Where it lies deeper than the kernel side looks, or below mounts that map users otherwise, that is not known.)
        const ROOTS_ALONE = 1 << 5;
    }
}

impl FileOrigin {
    /// Whether it is of the image that its process's container was made of, as it was then.
    #[must_use]
    pub const fn is_of_image(self) -> bool {
        self.contains(Self::IN_ROOT)
            && !self.contains(Self::FOREIGN)
            && (self.contains(Self::READ_ONLY)
                || (self.contains(Self::IN_LAYERS) && !self.contains(Self::CHANGED)))
    }
}

#[cfg(test)]
mod tests {
    use super::FileOrigin as P;

    #[test]
    fn only_what_is_below_and_unchanged_is_of_the_image() {
        assert!((P::IN_ROOT | P::IN_LAYERS).is_of_image());
        assert!((P::IN_ROOT | P::READ_ONLY).is_of_image());
        for not in [
            P::empty(),
            P::IN_ROOT,
            P::IN_LAYERS,
            P::IN_ROOT | P::CHANGED,
            P::IN_ROOT | P::IN_LAYERS | P::CHANGED,
            P::IN_ROOT | P::IN_LAYERS | P::FOREIGN,
            P::IN_ROOT | P::READ_ONLY | P::FOREIGN,
            P::READ_ONLY,
        ] {
            assert!(!not.is_of_image(), "{not:?}");
        }
    }
}
