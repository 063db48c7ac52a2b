//! Many connections at once: none is lost, or the loss is told.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::idle::{Hook, Idle};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;

use super::{failures, from_beginning_to_end, ipv6, watching};

/// Events of a connection to ourselves: CONNECT, ACCEPT, and CLOSE twice.
const EACH: u64 = 4;

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .slow_test("network::ten_thousand", Duration::from_mins(8), || {
            flood(10_000, false)
        })
        .slow_test("network::a_full_ring", Duration::from_mins(8), || {
            flood(4_000, true)
        })
        .slow_test(
            "network::more_agents_than_a_function_takes",
            Duration::from_mins(8),
            more_agents_than_a_function_takes,
        )
}

/// Of what is entered with its arguments' types a function takes 38; whoever comes later sees accepted connections, too.
fn more_agents_than_a_function_takes() -> Result<()> {
    const FUNCTION: &str = "security_sock_graft";
    const MORE_THAN_ANY: usize = 100;
    let enter = |_| Idle::at(&[Hook::Entry(FUNCTION)]).ok();
    let earlier: Vec<Idle> = (0..MORE_THAN_ANY).map_while(enter).collect();
    ensure!(earlier.len() < MORE_THAN_ANY, "there is no end");
    println!("{} are there", earlier.len());
    let agent = watching(&json!({}))?;
    let probes = fs::read_to_string("/sys/kernel/debug/kprobes/list")?;
    ensure!(probes.contains(FUNCTION), "it has found a place");
    drop(agent);
    from_beginning_to_end()?;
    ipv6()?;
    failures::broken_off()
}

/// So many connections, while the agent may be stopped: every event is there, or counted as lost.
fn flood(connections: u64, is_stopped: bool) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:20010")?;
    let mut agent = watching(&json!({"ports": [20010], "protocols": ["tcp"]}))?;
    if is_stopped {
        agent.signal(Signal::SIGSTOP)?;
    }
    let to = listener.local_addr()?;
    let accepting = thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..connections {
            drop(listener.accept()?);
        }
        Ok(())
    });
    let begin = Instant::now();
    for _ in 0..connections {
        drop(TcpStream::connect(to)?);
    }
    println!("{connections} connections in {:?}", begin.elapsed());
    accepting.join().expect("it does not panic")?;
    agent.signal(Signal::SIGCONT)?;
    let (told, lost) = settled(&mut agent, connections * EACH)?;
    println!("told {told}, lost {lost}");
    // (what is counted as lost may be of others: see the kernel's own count of skipped programs)
    ensure!(
        told + lost >= connections * EACH && told <= connections * EACH,
        "{told} were told and {lost} counted as lost, of {}",
        connections * EACH
    );
    ensure!(
        !is_stopped || lost > 0,
        "nothing was lost while it was stopped"
    );
    Ok(())
}

/// What is looked at of an event.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    count: u64,
}

/// Events that were told, and those that were counted as lost, when no more come.
fn settled(agent: &mut Agent, expected: u64) -> Result<(u64, u64)> {
    const QUIET: Duration = Duration::from_secs(5);
    /// For one too many.
    const SURPLUS: Duration = Duration::from_millis(200);
    let (mut told, mut lost) = (0, 0);
    loop {
        let is_all = told + lost >= expected;
        let Some(line) = agent.next_line(if is_all { SURPLUS } else { QUIET })? else {
            return Ok((told, lost));
        };
        let event: Told = serde_json::from_str(&line)?;
        match event.kind.as_str() {
            "CONNECT" | "ACCEPT" | "CLOSE" => told += 1,
            "DROPPED" => lost += event.count,
            _ => {}
        }
    }
}
