//! Runs a program in a QEMU guest with a kernel of choice; `guest --help` tells how.

use std::env;
use std::process::ExitCode;

use kernelseal_integration::guest::args::{self, Command};
use kernelseal_integration::guest::{relay, session};

fn main() -> ExitCode {
    let result = match args::parse(env::args().skip(1)) {
        Ok(Command::Run(run)) => session::run(&run),
        Ok(Command::Relay(port)) => relay::run(port).map(|()| 0),
        Ok(Command::Help) => {
            println!("{}", args::USAGE);
            Ok(0)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("guest: {error:#}");
            session::GUEST_FAILED.into()
        }
    }
}
