//! What kernelseal costs, in instructions: every case without it and with it, side by side, in one run.
//!
//! Run it in a guest with `--icount`, where a virtual nanosecond is an executed instruction and the one processor also
//! does the agent's own work. On a real machine the figures are times, and the limits do not apply to them.
//!
//! `bench monitors` measures the monitors alone, `bench starts` in one round what a start costs, and how much of it is the
//! agent's own.

mod cases;
mod machine;
mod monitors;
mod table;

use std::env;
use std::iter;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use kernelseal_integration::idle::{Hook, Idle};
use kernelseal_integration::namespace;
use kernelseal_integration::quiet::Agent;

use crate::cases::{CALLS_OF_A_CASE, Case, Limit, TENTHS};
use crate::machine::{Bystander, Crowd, Held};
use crate::table::Table;

/// How often everything is measured without and with kernelseal, in turns, and once more without in the end: the base itself drifts
/// by some hundred instructions a spawn from minute to minute, so each round's is the mean of the one before and the one after.
const ROUNDS: usize = 5;
/// Agents on one node, each in a PID namespace of its own.
const CROWD: usize = 60;
/// Resident memory of an agent, in KiB.
const MEMORY_LIMIT: u64 = 12 * 1024;
/// Of the agent's program, a release, in bytes.
const SIZE_LIMIT: u64 = 15_000_000;

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
    if env::args().any(|argument| argument == "starts") {
        return starts().map(|()| true);
    }
    let mut table = Table::new();
    if env::args().any(|argument| argument == "monitors") {
        monitors::measure(&mut table)?;
        println!("{table}");
        monitors::climb()?;
        return Ok(table.is_met());
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 1..ROUNDS {
        rounds.push(round(|_| Ok(()))?);
    }
    let mut agents = None;
    rounds.push(round(|agent| {
        agents = Some((
            machine::resident_kib(agent)?,
            Held::from_events(&agent.events()?)?,
        ));
        Ok(())
    })?);
    let (memory, held) = agents.context("no agent was measured")?;
    centre(&mut rounds, &base()?);
    let crowd = Crowd::start(CROWD)?;
    machine::settle();
    let crowded = Case::measure_all(&Case::OPENS)?;
    drop(crowd);

    let measured = medians(&rounds);
    for figures in &measured {
        let case = figures.case;
        let idle = figures
            .idle
            .map_or(0, |idle| idle.saturating_sub(figures.base));
        let limit = match case.limit() {
            Limit::Of(limit) => limit,
            Limit::OverIdle(limit) => limit + idle / TENTHS,
            Limit::TwiceIdle { .. } => unreachable!("of the monitors"),
        };
        table.cost(
            case.title(),
            figures.base,
            figures.idle,
            figures.with,
            limit,
        );
    }
    for (case, figure) in Case::OPENS.into_iter().zip(crowded) {
        if let Some(alone) = measured.iter().find(|figures| figures.case == case) {
            let title = format!("{}, {CROWD} agents", case.title());
            table.same(&title, alone.base, alone.with, figure);
        }
    }
    monitors::measure(&mut table)?;
    table.amount("resident memory of the agent, KiB", memory, MEMORY_LIMIT);
    table.amount(
        "its program, bytes",
        machine::size_of_program()?,
        SIZE_LIMIT,
    );
    println!("{table}");
    println!("{held}");
    println!("added in each of the {ROUNDS} rounds, whose median is above:");
    for (index, case) in Case::ALL.into_iter().enumerate() {
        print!("  {:<44}", case.title());
        for round in &rounds {
            let added = table::added(round[index].base, round[index].with);
            print!(" {added:>9}");
        }
        println!();
    }
    monitors::climb()?;
    Ok(table.is_met())
}

/// What a start costs, by one round: to see at once what a change does. No limits apply.
fn starts() -> Result<()> {
    let cases = [Case::Spawn, Case::StartEnv, Case::StartEnvAndFile];
    machine::settle();
    let base = Case::measure_all(&cases)?;
    let agent = machine::start_agent(&machine::config())?;
    let sealed = Bystander::start_sealed()?;
    machine::settle();
    for (case, base) in cases.into_iter().zip(base) {
        let before = machine::ran_ns(&agent)?;
        let with = case.measure()?;
        let own = (machine::ran_ns(&agent)? - before) / CALLS_OF_A_CASE;
        let added = table::added(base, with);
        println!(
            "{}: {added} added, of which the agent itself ran {own}",
            case.title()
        );
    }
    drop((sealed, agent));
    machine::clean_up()
}

/// A case's figures, in [`TENTHS`].
#[derive(Clone, Copy)]
struct Figures {
    case: Case,
    base: u64,
    /// With programs that do nothing, at the same hook; of opens and reads.
    idle: Option<u64>,
    with: u64,
}

impl Figures {
    fn added(&self) -> i64 {
        self.with.cast_signed() - self.base.cast_signed()
    }
}

/// Every case without kernelseal.
fn base() -> Result<Vec<u64>> {
    let _ordinary = Bystander::start()?;
    machine::settle();
    Case::measure_all(&Case::ALL)
}

/// Gives each round the mean of its base and the next one's; `last` comes after all of them.
fn centre(rounds: &mut [Vec<Figures>], last: &[u64]) {
    let mut after = last.to_vec();
    for round in rounds.iter_mut().rev() {
        for (figures, after) in round.iter_mut().zip(&mut after) {
            let before = figures.base;
            figures.base = before.midpoint(*after);
            *after = before;
        }
    }
}

/// Every case: without kernelseal, with programs that do nothing, and with it. The agent is looked at before it ends.
fn round(look: impl FnOnce(&Agent) -> Result<()>) -> Result<Vec<Figures>> {
    let ordinary = Bystander::start()?;
    machine::settle();
    let base = Case::measure_all(&Case::ALL)?;
    let nothing = Idle::at(&[Hook::Lsm("file_open")])?;
    machine::settle();
    let mut idle = Case::measure_all(&Case::OPENS)?;
    drop(nothing);
    let nothing = Idle::at(&[Hook::Lsm("file_permission")])?;
    machine::settle();
    idle.push(Case::Read.measure()?);
    drop((ordinary, nothing));
    let agent = machine::start_agent(&machine::config())?;
    let sealed = Bystander::start_sealed()?;
    machine::settle();
    let with = Case::measure_all(&Case::ALL)?;
    look(&agent)?;
    drop((sealed, agent));
    machine::clean_up()?;
    let idle = idle.into_iter().map(Some).chain(iter::repeat(None));
    let figures = Case::ALL.into_iter().zip(base).zip(idle).zip(with);
    Ok(figures
        .map(|(((case, base), idle), with)| Figures {
            case,
            base,
            idle,
            with,
        })
        .collect())
}

/// Each case in the round that added neither little nor much; what idle programs cost, likewise.
fn medians(rounds: &[Vec<Figures>]) -> Vec<Figures> {
    (0..Case::ALL.len())
        .map(|case| {
            let mut all: Vec<Figures> = rounds.iter().map(|round| round[case]).collect();
            all.sort_unstable_by_key(|figures| figures.idle.map(|idle| idle - figures.base));
            let idle = all[ROUNDS / 2].idle.map(|idle| idle - all[ROUNDS / 2].base);
            all.sort_unstable_by_key(Figures::added);
            let middle = all[ROUNDS / 2];
            Figures {
                idle: idle.map(|added| middle.base + added),
                ..middle
            }
        })
        .collect()
}
