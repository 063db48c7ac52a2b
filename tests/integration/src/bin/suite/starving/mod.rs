//! Nobody starves the agent: many programs that live, and whoever wants to take away what it needs.

mod crowd;
mod http;
mod lack;
mod queue;
mod siege;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::registry::Registry;

const SOON: Duration = Duration::from_secs(20);
const PLACE: &str = "/run/kernelseal/secrets";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    crowd::register(queue::register(siege::register(http::register(
        lack::register(registry),
    ))))
}

/// An agent that is executed by a shell which has done something for it.
fn agent_after(script: &str, config: &Config) -> Result<Agent> {
    let binary = Agent::command(&[]).get_program().to_owned();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script} && exec \"$0\" \"$@\"")]);
    command.arg(binary);
    Agent::start_as(command, &config.to_string())?.readied()
}
