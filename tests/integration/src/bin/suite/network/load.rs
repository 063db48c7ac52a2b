//! Many connections at once: none is lost, or the loss is told.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;
use serde_json::json;

use super::watching;

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

/// Events that were told, and those that were counted as lost, when there are so many or no more come.
fn settled(agent: &mut Agent, expected: u64) -> Result<(u64, u64)> {
    const QUIET: Duration = Duration::from_secs(5);
    let mut before = 0;
    loop {
        let events = agent.events(QUIET)?;
        let (mut told, mut lost) = (0, 0);
        for event in events {
            match event["type"].as_str() {
                Some("CONNECT" | "ACCEPT" | "CLOSE") => told += 1,
                Some("DROPPED") => lost += event["count"].as_u64().unwrap_or(0),
                _ => {}
            }
        }
        if told + lost >= expected || events.len() == before {
            return Ok((told, lost));
        }
        before = events.len();
    }
}
