//! Pods of our own manifests on a real containerd: the tests `cri::`, which `make guest-pods` runs in a guest, and, under a real
//! kubelet and API server, `kubelet::`, which `make guest-kubelet` does; and the README's container, `docker::`.

mod attack;
mod cluster;
mod control_plane;
mod cri;
mod daemon;
mod delivery;
mod docker;
mod dockerfile;
mod identity;
mod image;
mod kubelet;
mod lifecycle;
mod log;
mod manifest;
mod manifests;
mod node;
mod pod;
mod spec;
mod stack;
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
        docker::register,
        stack::register,
        daemon::register,
    ];
    rooms
        .into_iter()
        .fold(Registry::new(), |registry, register| register(registry))
        .main()
}
