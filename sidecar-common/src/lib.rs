//! What crosses the kernel boundary, defined once for both sides: the layout of maps and
//! records, and the numbers they are sized by.
//!
//! Every type here is `repr(C)`, has no padding (`bytemuck` refuses to compile it otherwise) and
//! is listed in [`layout::LAYOUT_VERSION`]'s contract: change one, raise the version.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "a call in a loop is not verifiable on 5.10"
)]

pub mod event;
pub mod layout;
pub mod monitor;
pub mod name;
pub mod network;
pub mod policy;
pub mod procfs;
pub mod proof;
pub mod provenance;
pub mod syscall;

#[cfg(feature = "user")]
mod pod {
    //! Leave for aya to copy our types in and out of maps as bytes.
    use crate::{layout, network, policy, syscall};

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => {$(
            // SAFETY: `bytemuck::Pod` on the same type has checked at compile time that it has
            // neither padding nor invalid bit patterns, which is all that `aya::Pod` asks.
            unsafe impl aya::Pod for $t {}
        )+};
    }
    pod!(
        layout::Offsets,
        policy::Scope,
        policy::Counters,
        policy::BindingKey,
        policy::OwnObject,
        policy::RingKey,
        policy::Maker,
        policy::Sealed,
        policy::Held,
        policy::Vault,
        network::Settings,
        network::UdpFlow,
        network::UdpKey,
        syscall::Settings,
        syscall::Call,
        syscall::Rate,
    );
}
