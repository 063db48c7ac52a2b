//! `ps` that shows names or arguments opens everybody's environ, if only to leave it out: Debian 12's does. It is
//! refused, that is told, and it lists as ever.

use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::process::run;
use kernelseal_integration::programs;
use kernelseal_integration::registry::Registry;

use super::case::Machine;

const SETTLE: Duration = Duration::from_millis(300);

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry.test("ordinary::ps_lists_as_ever", ps_lists_as_ever)
}

fn ps_lists_as_ever() -> Result<()> {
    let mut machine = Machine::busy()?;
    for arguments in [
        "-e",
        "-ef",
        "aux",
        "-eLf",
        "axo pid,ppid,stat,wchan,rss,user,args",
    ] {
        let mut command = programs::command("/usr/bin/ps")?;
        let text = run(command.arg("ww").args(arguments.split(' ')))?;
        for sealed in ["probe-static", "probe-go"] {
            ensure!(
                text.contains(sealed),
                "ps {arguments}: no {sealed} in\n{text}"
            );
        }
    }
    for event in machine.others(SETTLE)? {
        ensure!(
            event["type"] == "BLOCKED" && event["process"] == "ps" && event["access"] == "environ",
            "told of more than ps: {event}"
        );
    }
    Ok(())
}
