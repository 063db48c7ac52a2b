//! The tests that run in a guest, or as root on a machine whose kernel can enforce.

mod attack;
mod fixtures;
mod leftovers;
mod machine;
mod pods;
mod scopes;

use std::process::ExitCode;

use kernelseal_integration::registry::Registry;

fn main() -> ExitCode {
    let registry = Registry::new();
    let registry = machine::register(registry);
    let registry = attack::register(registry);
    let registry = pods::register(registry);
    let registry = scopes::register(registry);
    let registry = leftovers::register(registry);
    fixtures::register(registry).main()
}
