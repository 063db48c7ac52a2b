//! The tests that run in a guest, or as root on a machine whose kernel can enforce.

mod delivery;
mod fixtures;
mod machine;
mod names;
mod pods;

use std::process::ExitCode;

use kernelseal_integration::registry::Registry;

fn main() -> ExitCode {
    let rooms = [
        machine::register,
        pods::register,
        fixtures::register,
        delivery::register,
        names::register,
    ];
    rooms
        .into_iter()
        .fold(Registry::new(), |registry, register| register(registry))
        .main()
}
