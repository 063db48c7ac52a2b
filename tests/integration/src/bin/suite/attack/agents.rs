//! The agent knows every secret: root next to it does not get them from it.

use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::registry::Registry;
use serde_json::Value;

use super::scene::agent_in;
use super::{Pattern, backwards, lines};

const LIMIT: Duration = Duration::from_mins(5);
/// What is refused whatever the policy: the agent's own memory.
const GUARDED: [&str; 13] = [
    "plain:environ",
    "plain:mem",
    "thread:environ",
    "thread:mem",
    "procfs:mem",
    "bind:mem",
    "reopen:mem",
    "dirfd:mem",
    "attach",
    "seize",
    "attach-threads",
    "process_vm_readv",
    "pidfd_getfd",
];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("attack::agent_on_the_machine", LIMIT, || {
            agents_memory(&Place::Machine, "mode: enforce")
        })
        .slow_test("attack::agent_in_a_pod", LIMIT, || {
            agents_memory(&Place::pod()?, "mode: enforce")
        })
        .slow_test("attack::agent_with_switches_off", LIMIT, || {
            agents_memory(
                &Place::Machine,
                "mode: enforce, blockEnviron: false, blockMem: false, blockPtrace: false",
            )
        })
        .slow_test("attack::agents_core_dump", LIMIT, agents_core_dump)
}

fn attack(place: &Place, vector: &str, number: u32) -> Result<Vec<Value>> {
    let mut command = place.command(probe::path("attack")?)?;
    lines(command.args([vector, &number.to_string(), &backwards()]))
}

fn agents_memory(place: &Place, policy: &str) -> Result<()> {
    let (_agent, number) = agent_in(place, policy)?;
    let found = attack(place, "all", number)?;
    let mut wrong: Vec<String> = found
        .iter()
        .filter(|line| line["leaked"] != false)
        .map(|line| format!("read a secret: {line}"))
        .collect();
    for name in GUARDED {
        match found.iter().find(|line| line["vector"] == name) {
            Some(line) if line["errno"] == libc::EPERM => {}
            Some(line) => wrong.push(format!("was not refused: {line}")),
            None => wrong.push(format!("{name} was not tried")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn agents_core_dump() -> Result<()> {
    let _pattern = Pattern::as_before()?;
    let (agent, number) = agent_in(&Place::Machine, "mode: enforce")?;
    let found = attack(&Place::Machine, "core-dump", number)?;
    // However it ended: it was told to abort.
    agent.stop()?;
    ensure!(found.len() == 1 && found[0]["leaked"] == false, "{found:?}");
    Ok(())
}
