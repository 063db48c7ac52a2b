//! The tests that run in a guest, or as root on a machine whose kernel can enforce.

mod adoption;
mod attack;
mod bad_input;
mod containers;
mod delivery;
mod examples;
mod faults;
mod fixtures;
mod grounds;
mod guardian;
mod guards;
mod identity;
mod leftovers;
mod lifecycle;
mod live;
mod machine;
mod merging;
mod names;
mod network;
mod not_executed;
mod observe;
mod ordinary;
mod parents;
mod pods;
mod policy;
mod proof;
mod provenance;
mod races;
mod scopes;
mod sources;
mod stacks;
mod starts;
mod starving;
mod syscalls;
mod takeover;
mod unknown_pods;
mod unmatched;

use std::process::ExitCode;

use kernelseal_integration::registry::Registry;

fn main() -> ExitCode {
    let rooms = [
        machine::register,
        grounds::register,
        pods::register,
        fixtures::register,
        delivery::register,
        stacks::register,
        names::register,
        not_executed::register,
        identity::register,
        merging::register,
        containers::register,
        unknown_pods::register,
        unmatched::register,
        sources::register,
        examples::register,
        policy::register,
        proof::register,
        provenance::register,
        guards::register,
        bad_input::register,
        races::register,
        parents::register,
        lifecycle::register,
        live::register,
        adoption::register,
        guardian::register,
        takeover::register,
        faults::register,
        observe::register,
        network::register,
        syscalls::register,
        starts::register,
        starving::register,
        attack::register,
        leftovers::register,
        scopes::register,
        ordinary::register,
    ];
    rooms
        .into_iter()
        .fold(Registry::new(), |registry, register| register(registry))
        .main()
}
