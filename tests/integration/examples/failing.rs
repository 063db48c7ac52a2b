//! Tests that fail in every way a test can; `tests/registry.rs` looks at how that is told.

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use kernelseal_integration::registry::Registry;

fn main() -> ExitCode {
    Registry::new()
        .test("passes", || {
            println!("a passing test is not heard");
            Ok(())
        })
        .test("errs", || {
            println!("from the test");
            Command::new("echo").arg("from its child").status()?;
            bail!("the reason")
        })
        .test("panics", || panic!("the panic's reason"))
        .slow_test("hangs", Duration::from_millis(300), hangs)
        .main()
}

fn hangs() -> Result<()> {
    println!("about to hang");
    thread::sleep(Duration::from_mins(10));
    bail!("nobody ended the run")
}
