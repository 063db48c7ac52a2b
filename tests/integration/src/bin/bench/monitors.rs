//! What the monitors cost: a connection and a call that they watch, beside programs that do nothing at the same hooks;
//! and how many events a second they tell of before some are lost.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kernelseal_integration::idle::{Hook, Idle, RECORDS_A_RUN};
use kernelseal_integration::quiet::Agent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, close};
use sidecar_common::network::Flow;
use sidecar_common::syscall::Syscall;

use crate::cases::{CALLS_OF_A_CASE, Case, Limit, NO_FILE, TENTHS};
use crate::machine;
use crate::table::Table;

const NETWORK: &str = "network: {enabled: true}";
const SYSCALLS: &str = "syscalls: {enabled: true, names: [close]}";
/// What the network monitor attaches to.
const NETWORK_HOOKS: [Hook; 7] = [
    Hook::Tracepoint("inet_sock_set_state"),
    ACCEPTED,
    Hook::Function("ip_send_skb"),
    Hook::Function("ip6_send_skb"),
    Hook::Function("skb_consume_udp"),
    Hook::Function("udp_destroy_sock"),
    Hook::Function("udpv6_destroy_sock"),
];
/// The one of these that a connection passes once.
const ACCEPTED: Hook = Hook::Entry("security_sock_graft");
#[cfg(target_arch = "x86_64")]
const CLOSE: &str = "__x64_sys_close";
#[cfg(target_arch = "aarch64")]
const CLOSE: &str = "__arm64_sys_close";
/// How long a monitor may take to be loaded, or to tell what it saw.
const SOON: Duration = Duration::from_mins(2);
/// Nothing more is told after so long a silence.
const QUIET: Duration = Duration::from_secs(2);
/// Events a second that are asked for, one step after another, and for how long.
const LADDER: [u32; 4] = [1_000, 4_000, 16_000, 64_000];
const STEP: Duration = Duration::from_secs(2);

/// Adds the monitors' lines.
pub fn measure(table: &mut Table) -> Result<()> {
    line(
        table,
        Case::Connection,
        NETWORK,
        &NETWORK_HOOKS,
        ACCEPTED,
        size_of::<Flow>(),
    )?;
    let call = [Hook::Function(CLOSE), Hook::Return(CLOSE)];
    line(
        table,
        Case::WatchedCall,
        SYSCALLS,
        &call,
        call[0],
        size_of::<Syscall>(),
    )
}

/// One of them. `once` is a hook that it passes once: by it the cost of a record of so many bytes is told.
fn line(
    table: &mut Table,
    case: Case,
    monitor: &str,
    hooks: &[Hook],
    once: Hook,
    bytes: usize,
) -> Result<()> {
    let Limit::TwiceIdle { records } = case.limit() else {
        bail!("{} is none of the monitors", case.title());
    };
    machine::settle();
    let base = case.measure()?;
    let measure_with = |idle: Result<Idle>| {
        let _attached = idle?;
        machine::settle();
        case.measure()
    };
    let idle = measure_with(Idle::at(hooks))?;
    let before = measure_with(Idle::at(&[once]))?;
    let writing = measure_with(Idle::writing(&[once], u32::try_from(bytes)?))?;
    let record = writing.saturating_sub(before) / RECORDS_A_RUN;
    let agent = start(monitor)?;
    machine::settle();
    // What the agent does with what it is told comes later, and is told apart.
    let pid = Pid::from_raw(agent.pid().cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let worked = work_of(&agent)?;
    let with = case.measure();
    kill(pid, Signal::SIGCONT)?;
    let with = with?;
    settled(&agent)?;
    let worked = work_of(&agent)?.saturating_sub(worked);
    drop(agent);
    machine::clean_up()?;
    let limit = (2 * idle.saturating_sub(base) + records * record) / TENTHS;
    table.cost(case.title(), base, Some(idle), with, limit);
    println!(
        "{}: a record costs {}, {records} of them are written; the agent's own work, later: {}",
        case.title(),
        record / TENTHS,
        worked / CALLS_OF_A_CASE,
    );
    Ok(())
}

/// For how long the agent's threads have run, in nanoseconds.
fn work_of(agent: &Agent) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let told = fs::read_to_string(thread?.path().join("schedstat"))?;
        let ran = told.split(' ').next().context("an empty schedstat")?;
        sum += ran.parse::<u64>()?;
    }
    Ok(sum)
}

/// An agent whose monitor is at work.
fn start(monitor: &str) -> Result<Agent> {
    let agent = machine::start_agent(&machine::watching(monitor))?;
    let begin = Instant::now();
    while !agent.log()?.contains("monitor is on") {
        if begin.elapsed() > SOON {
            bail!("no monitor:\n{}", agent.log()?);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(agent)
}

/// How many calls of ours it told, and how many events it counted as lost, when nothing more comes.
fn settled(agent: &Agent) -> Result<(u64, u64)> {
    let begin = Instant::now();
    let mut before = (0, 0);
    loop {
        thread::sleep(QUIET);
        let (mut told, mut lost) = (0, 0);
        for event in agent.all_events()? {
            let event = event?;
            match event["type"].as_str() {
                Some("SYSCALL") => told += u64::from(event["args"]["fd"] == NO_FILE),
                Some("DROPPED") => lost += event["count"].as_u64().unwrap_or(0),
                _ => {}
            }
        }
        if before == (told, lost) {
            return Ok(before);
        }
        before = (told, lost);
        if begin.elapsed() > SOON {
            bail!("it does not come to an end: {told} told, {lost} lost");
        }
    }
}

/// Asks for more and more events a second, and prints how many were told and lost. The one processor does that, too.
pub fn climb() -> Result<()> {
    println!("events a second, of a watched call, for {STEP:?} each:");
    for rate in LADDER {
        let agent = start(SYSCALLS)?;
        machine::settle();
        let (done, elapsed) = call_at(rate);
        let (told, lost) = settled(&agent)?;
        let rate_reached = u128::from(done) * 1_000 / elapsed.as_millis().max(1);
        println!(
            "  {rate:>6}: {done} calls ({rate_reached} a second), {told} told, {lost} counted as lost"
        );
        drop(agent);
        machine::clean_up()?;
    }
    Ok(())
}

/// Calls in even portions; how many, and in what time.
fn call_at(rate: u32) -> (u64, Duration) {
    const PORTION: Duration = Duration::from_millis(1);
    let each = rate / 1_000;
    let begin = Instant::now();
    let mut done = 0;
    for portion in 1..=u32::try_from(STEP.as_millis()).unwrap_or(u32::MAX) {
        for _ in 0..each {
            let _ = close(NO_FILE);
            done += 1;
        }
        thread::sleep((PORTION * portion).saturating_sub(begin.elapsed()));
    }
    (done, begin.elapsed())
}
