//! What kernelseal costs, in instructions: every case without it and with it, side by side, in one run.
//!
//! Run it in a guest with `--icount`, where a virtual nanosecond is an executed instruction and the one processor also
//! does the agent's own work. On a real machine the figures are times, and the limits do not apply to them.

mod cases;
mod machine;
mod table;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use kernelseal_integration::namespace;
use kernelseal_integration::quiet::Agent;

use crate::cases::Case;
use crate::machine::{Bystander, Crowd, Held};
use crate::table::Table;

/// How often everything is measured without and with kernelseal, in turns: the base itself drifts by some hundred
/// instructions a spawn from minute to minute.
const ROUNDS: usize = 5;
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
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 1..ROUNDS {
        rounds.push(Round::measure(|_| Ok(()))?);
    }
    let mut agents = None;
    rounds.push(Round::measure(|agent| {
        agents = Some((
            machine::resident_kib(agent)?,
            Held::from_events(&agent.events()?)?,
        ));
        Ok(())
    })?);
    let (memory, held) = agents.context("no agent was measured")?;
    let crowd = Crowd::start(CROWD)?;
    machine::settle();
    let crowded = Case::measure_all(&Case::OPENS)?;
    drop(crowd);

    let mut table = Table::new();
    let (bases, with) = medians(&rounds);
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
    println!("added in each of the {ROUNDS} rounds, whose median is above:");
    for (index, case) in Case::ALL.into_iter().enumerate() {
        print!("  {:<44}", case.title());
        for round in &rounds {
            let added = table::added(round.base[index], round.with[index]);
            print!(" {added:>9}");
        }
        println!();
    }
    Ok(table.is_met())
}

/// Every case, first without kernelseal and then with it.
struct Round {
    base: Vec<u64>,
    with: Vec<u64>,
}

impl Round {
    /// Measures one, and has a look at the agent before it ends.
    fn measure(look: impl FnOnce(&Agent) -> Result<()>) -> Result<Self> {
        let ordinary = Bystander::start()?;
        machine::settle();
        let base = Case::measure_all(&Case::ALL)?;
        drop(ordinary);
        let agent = machine::start_agent(&machine::config())?;
        let sealed = Bystander::start_sealed()?;
        machine::settle();
        let with = Case::measure_all(&Case::ALL)?;
        look(&agent)?;
        drop((sealed, agent));
        machine::clean_up()?;
        Ok(Self { base, with })
    }
}

/// Each case's base and cost in the round that added neither little nor much.
fn medians(rounds: &[Round]) -> (Vec<u64>, Vec<u64>) {
    (0..Case::ALL.len())
        .map(|case| {
            let mut pairs: Vec<_> = rounds
                .iter()
                .map(|r| (r.base[case], r.with[case]))
                .collect();
            pairs.sort_unstable_by_key(|(base, with)| with.cast_signed() - base.cast_signed());
            pairs[ROUNDS / 2]
        })
        .unzip()
}
