//! Pods of our own manifests on a real containerd: the tests `cri::`, which `make guest-pods` runs in a guest.

mod attack;
mod cri;
mod delivery;
mod dockerfile;
mod identity;
mod image;
mod lifecycle;
mod manifest;
mod manifests;
mod node;
mod pod;
mod spec;
mod volumes;
mod watch;
mod wire;

use std::process::ExitCode;

use kernelseal_integration::registry::Registry;

fn main() -> ExitCode {
    let rooms = [
        delivery::register,
        attack::register,
        manifests::register,
        lifecycle::register,
        dockerfile::register,
    ];
    rooms
        .into_iter()
        .fold(Registry::new(), |registry, register| register(registry))
        .main()
}
