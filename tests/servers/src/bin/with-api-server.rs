//! Runs a command beside a real Kubernetes API server: `with-api-server COMMAND ARG...`. In the arguments, `{port}` stands
//! for the server's port on loopback, and `{authority}` for a file with the certificate to trust. It is this machine's, for
//! guests: emulated, a server takes minutes for what it does in a second here.

use std::{
    env, fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use kernelseal_servers::{ApiServer, SERVICE};

/// The exit status when there was no command to end.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    run().unwrap_or_else(|e| {
        eprintln!("with-api-server: {e:#}");
        FAILED.into()
    })
}

fn run() -> Result<ExitCode> {
    let mut words = env::args().skip(1);
    let program = words
        .next()
        .context("usage: with-api-server COMMAND ARG...")?;
    let server = ApiServer::start_known_as(&[*SERVICE.ip()])?;
    let folder = tempfile::tempdir()?;
    let authority = folder.path().join("ca.crt");
    fs::write(&authority, server.authority_pem())?;
    let (port, authority) = (server.port().to_string(), authority.display().to_string());
    let words = words.map(|word| {
        word.replace("{port}", &port)
            .replace("{authority}", &authority)
    });
    let status = Command::new(&program)
        .args(words)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    // (a shell's way to tell of a signal is not needed: `guest` has its own)
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(FAILED).into())
}
