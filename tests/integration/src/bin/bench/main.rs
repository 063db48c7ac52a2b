//! What kernelseal costs, in instructions: every case without it and with it, side by side, in one run.
//!
//! Run it in a guest with `--icount`, where a virtual nanosecond is an executed instruction and the one processor also
//! does the agent's own work. On a real machine the figures are times, and the limits do not apply to them.

mod cases;
mod machine;
mod table;

use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use kernelseal_integration::namespace;

use crate::cases::Case;
use crate::machine::{Agent, Crowd, Held, Sealed};
use crate::table::Table;

/// Agents on one node, each in a PID namespace of its own.
const CROWD: usize = 60;
/// Resident memory of an agent, in KiB.
const MEMORY_LIMIT: u64 = 12 * 1024;

fn main() -> ExitCode {
    if let Some(status) = namespace::intercept() {
        return status;
    }
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything and prints the table; true when no line is over its limit.
fn bench() -> Result<bool> {
    machine::prepare()?;
    // Starting an agent starts threads that read what it says, and opens cost a process with threads
    // 80 more: so it has one from the start.
    thread::spawn(thread::park);
    machine::settle();
    let base = Case::measure_all(&Case::ALL)?;
    let agent = Agent::start(&machine::config())?;
    let sealed = Sealed::start()?;
    machine::settle();
    let with = Case::measure_all(&Case::ALL)?;
    let memory = agent.resident_kib()?;
    let held = Held::from_events(&agent.events()?)?;
    drop((sealed, agent));
    let crowd = Crowd::start(CROWD)?;
    machine::settle();
    let crowded = Case::measure_all(&Case::OPENS)?;
    drop(crowd);
    machine::clean_up()?;
    machine::settle();
    let again = Case::measure_all(&Case::ALL)?;

    let mut table = Table::new();
    for (index, case) in Case::ALL.into_iter().enumerate() {
        table.cost(case.title(), base[index], with[index], case.limit());
    }
    for (case, figure) in Case::OPENS.into_iter().zip(crowded) {
        let alone = Case::ALL
            .iter()
            .zip(&base)
            .find(|(known, _)| **known == case);
        if let Some((_, base)) = alone {
            let title = format!("{}, {CROWD} agents", case.title());
            table.cost(&title, *base, figure, case.limit());
        }
    }
    table.amount("resident memory of the agent, KiB", memory, MEMORY_LIMIT);
    println!("{table}");
    println!("{held}");
    println!("the same without anything loaded, measured once more at the end:");
    for (case, (base, again)) in Case::ALL.into_iter().zip(base.iter().zip(again)) {
        println!(
            "  {:<44} {:>+9}",
            case.title(),
            again.cast_signed() - base.cast_signed()
        );
    }
    Ok(table.is_met())
}
