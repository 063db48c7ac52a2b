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
    let before = Case::measure_all(&Case::ALL)?;
    let agent = Agent::start(&machine::config())?;
    let sealed = Sealed::start()?;
    machine::settle();
    let with = Case::measure_all(&Case::ALL)?;
    let memory = agent.resident_kib()?;
    let held = Held::from_events(&agent.events()?)?;
    drop((sealed, agent));
    machine::clean_up()?;
    machine::settle();
    let after = Case::measure_all(&Case::ALL)?;
    let crowd = Crowd::start(CROWD)?;
    machine::settle();
    let crowded = Case::measure_all(&Case::OPENS)?;
    drop(crowd);

    let mut table = Table::new();
    let bases: Vec<u64> = before
        .iter()
        .zip(&after)
        .map(|(a, b)| a.midpoint(*b))
        .collect();
    let lines = || Case::ALL.into_iter().zip(&bases).zip(&with);
    for ((case, base), with) in lines() {
        table.cost(case.title(), *base, *with, case.limit());
    }
    for (case, figure) in Case::OPENS.into_iter().zip(crowded) {
        if let Some(((_, base), alone)) = lines().find(|((known, _), _)| *known == case) {
            let title = format!("{}, {CROWD} agents", case.title());
            table.same(&title, *base, *alone, figure);
        }
    }
    table.amount("resident memory of the agent, KiB", memory, MEMORY_LIMIT);
    println!("{table}");
    println!("{held}");
    println!("the base, measured after against before:");
    for (case, (before, after)) in Case::ALL.into_iter().zip(before.iter().zip(after)) {
        println!(
            "  {:<44} {:>+9}",
            case.title(),
            after.cast_signed() - before.cast_signed()
        );
    }
    Ok(table.is_met())
}
