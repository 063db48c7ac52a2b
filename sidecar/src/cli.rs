//! What was asked: the command line, and what its answers look like.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::{
    agent, check, config, confinement, guardian, kernel, kube, limits, observe::http, privileges,
    seal, status, top, validate,
};

/// Seals programs' secrets: nobody but the program reads them.
#[derive(Parser)]
#[command(name = "kernelseal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch programs start, give them their secrets, and guard them. Events go to stdout.
    Run {
        /// The configuration.
        #[arg(
            long,
            value_name = "FILE",
            default_value = "/etc/kernelseal/config.yaml"
        )]
        config: PathBuf,
    },
    /// Find out whether this machine can enforce: a line for each requirement, with the fix.
    Check,
    /// Read configurations and say what is wrong with them.
    Validate(validate::Options),
    /// Add the sidecar to the pods of Kubernetes manifests. The result goes to stdout, a line per object to stderr.
    Inject(kube::inject::Inject),
    /// Take the sidecar away from the pods of manifests, with all that `inject` added.
    Uninject(kube::inject::Uninject),
    /// Add the sidecar to pods as they are created: a mutating admission webhook, over TLS.
    Webhook(kube::webhook::Options),
    /// Show agents' events live: sealed programs, connections, calls, refusals. Reads events from standard input.
    Top,
    /// Show the state of this node's kernel side. Exit status 0 if an agent guards, 1 if none does.
    Status,
    /// Remove the kernel side from this node. What it guards is no longer guarded.
    Cleanup {
        /// Even while agents run.
        #[arg(long)]
        force: bool,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print the definition of the kind `SyscallMonitor`, for `kubectl apply -f -`.
    Crd,
    /// Load the kernel side, if it is not there. `run` does this by itself.
    #[command(hide = true)]
    Load,
    /// Say where this kernel keeps what the network monitor reads. `run` asks by itself.
    #[command(hide = true, name = kernel::fields::COMMAND)]
    Offsets,
    /// Serve what the agent says to /metrics, /healthz and /ready. `run` starts it by itself.
    #[command(hide = true, name = http::COMMAND)]
    Http,
    /// Stay when an agent is killed, and end what it held. `run` starts it by itself.
    #[command(hide = true)]
    Guardian {
        /// The agent.
        agent: u32,
        /// The agent's audit log.
        audit_log: Option<PathBuf>,
    },
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { config } => agent::run(&config),
        Command::Check => return check::run(),
        Command::Validate(options) => return validate::run(&options),
        Command::Inject(command) => return write_manifest(&command.run()),
        Command::Uninject(command) => return write_manifest(&command.run()),
        Command::Webhook(options) => kube::webhook::run(&options),
        Command::Top => top::run(),
        Command::Status => return status::run(),
        Command::Cleanup { force } => cleanup(force),
        Command::Schema => {
            println!("{:#}", config::json_schema());
            Ok(())
        }
        Command::Crd => {
            print!("{}", kube::definition());
            Ok(())
        }
        Command::Load => agent::load_kernel_side(),
        Command::Offsets => kernel::fields::print(),
        Command::Http => http::run(),
        Command::Guardian { agent, audit_log } => guardian::run(agent, audit_log.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let confined = confinement::advice(&format!("{e:#}"));
            let confined = confined.map_or_else(String::new, |advice| format!(". {advice}"));
            eprintln!("kernelseal: {e:#}{confined}{}", advice(&e));
            ExitCode::FAILURE
        }
    }
}

/// What to do about an error that does not say so itself: `check` prints the same one, and is no way out of it there.
fn advice(e: &anyhow::Error) -> &'static str {
    let is_refusal = |cause: &kernel::Error| matches!(cause, kernel::Error::Load { .. });
    if e.chain()
        .filter_map(|cause| cause.downcast_ref())
        .any(is_refusal)
    {
        ". Run `kernelseal check` to see what it lacks"
    } else {
        ""
    }
}

fn write_manifest(said: &kube::inject::Said) -> ExitCode {
    eprint!("{}", said.notes);
    if let Err(e) = io::stdout().write_all(said.manifest.as_bytes()) {
        eprintln!("kernelseal: the manifest could not be written: {e}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(said.code)
}

fn cleanup(force: bool) -> anyhow::Result<()> {
    privileges::ensure_root()?;
    // (a directory each, until it is wiped)
    limits::raise();
    let lock = kernel::pins::lock()?;
    let versions = kernel::pins::all()?;
    let mut ended = BTreeMap::new();
    for dir in versions {
        let maps = match kernel::Maps::open_at(&dir) {
            Ok(maps) => maps,
            // what is incomplete, or not of our shape, can only be forced away
            Err(_) if force => continue,
            Err(e) => return Err(e).context(dir.display().to_string()),
        };
        let running = maps
            .scopes()
            .iter()
            .filter(|(_, scope)| scope.agent != 0)
            .count();
        let under_seal = maps.sealed();
        anyhow::ensure!(
            force || (running == 0 && under_seal == 0),
            "{}: {running} agents run on this node, and {under_seal} processes are sealed; stop them first, or use --force: their secrets are then open",
            dir.display()
        );
        // Nobody will know of them once the maps are gone.
        ended.extend(maps.ended_vaults());
    }
    let taken_away = seal::TakenAway::from_everywhere(&ended)?;
    for path in kernel::pins::remove_all(&lock)? {
        println!("removed {}", path.display());
    }
    taken_away
        .wipe()
        .context("secret files of programs that have ended")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{advice, kernel};

    #[test]
    fn a_refusal_of_the_kernel_names_check_and_check_does_not() {
        let refused = || kernel::Error::Load {
            what: "file_open".into(),
            cause: "no".into(),
        };
        // What `check` prints.
        assert!(!refused().to_string().contains("kernelseal check"));
        let wrapped = anyhow::Error::new(refused()).context("start");
        assert!(advice(&wrapped).contains("kernelseal check"));
        assert_eq!(advice(&anyhow::anyhow!("no")), "");
    }

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
