//! kernelseal: secrets that only the program they are for can read.
//!
//! From top to bottom: [`cli`] says what was asked, [`agent`] wires everything, [`seal`] does the main
//! job, [`monitor`] stands beside it. Below them are `secrets`, `kube`, `observe`, `process`, `kernel`, `config` and `util`.
//! Imports lead down only.

mod agent;
mod check;
mod cli;
#[expect(unreachable_pub, reason = "its items are the interface of a module")]
mod config;
mod confinement;
mod guardian;
mod kernel;
mod kube;
mod limits;
mod monitor;
mod observe;
mod privileges;
mod process;
mod seal;
mod secrets;
mod status;
mod takeover;
mod top;
mod unsupported;
mod util;
mod validate;

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

/// Wipes every allocation that is given back: what TLS, HTTP and JSON keep of a Secret on its way through
/// them is theirs, and they do not wipe it.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    cli::main()
}
