//! Interactive use: a shell with jobs, and a database's client that finds its password.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::process::{Running, spawn};
use kernelseal_integration::programs;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::terminal::Terminal;
use nix::sys::signal::Signal;

use super::VALUE;
use super::case::{LIMIT, Machine, ensure_all_ended, shell};

pub(super) const BASH: &str = "/usr/bin/bash";
const SOON: Duration = Duration::from_mins(3);
/// A database that wants a password, until it is told to end.
const DATABASE: &str = include_str!("scripts/database.sh");

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("ordinary::jobs_at_a_terminal_beside", || {
            let mut machine = Machine::busy()?;
            jobs_at_a_terminal(&mut interactive()?, "")?;
            machine.ensure_quiet()
        })
        .test("ordinary::jobs_at_a_terminal_sealed", || {
            let mut agent = Agent::run(&Config::token_for(BASH))?;
            let mut terminal = interactive()?;
            agent.event("SEALED", terminal.pid())?;
            jobs_at_a_terminal(&mut terminal, VALUE)?;
            ensure_all_ended(&mut agent)
        })
        .slow_test("ordinary::psql_at_a_terminal", LIMIT, psql_at_a_terminal)
}

pub(super) fn interactive() -> Result<Terminal> {
    let mut command = programs::command(BASH)?;
    command.args(["--norc", "-i"]).env("PS1", "> ");
    Terminal::open(&mut command)
}

/// Stops, resumes and ends jobs; the shell finds `secret` in both places, or nothing. It ends with that.
fn jobs_at_a_terminal(terminal: &mut Terminal, secret: &str) -> Result<()> {
    // What is awaited is put together by the shell, so that it is not what was typed.
    terminal.type_line("echo up $((40+2))", "up 42", 1)?;
    let line = r#"echo "variable=[$TOKEN] file=[$(cat $KERNELSEAL_SECRETS_DIR/TOKEN </dev/null)]""#;
    let wanted = format!("variable=[{secret}] file=[{secret}]");
    terminal.type_line(line, &wanted, 1)?;
    let line = "sh -c 'echo it is up $((6*7)); exec sleep 1000'";
    terminal.type_line(line, "it is up 42", 1)?;
    terminal.type_keys("\x1a")?;
    terminal.shows("Stopped", 1)?;
    terminal.type_line("bg; jobs", "Running", 1)?;
    terminal.type_line("kill %1; wait %1; echo was $?", "was 143", 1)?;
    let line = "{ echo go $((5+5)); cat; } | tr a-z A-Z";
    terminal.type_line(line, "GO 10", 1)?;
    terminal.type_keys("typed\n")?;
    terminal.shows("TYPED", 1)?;
    terminal.type_keys("\x04")?;
    terminal.type_line("stty size >/dev/null && echo tty $((1+1))", "tty 2", 1)?;
    terminal.type_line("(exit 5); echo status $?", "status 5", 1)?;
    terminal.type_keys("exit\n")?;
    terminal.ended()
}

/// The client is bound and finds its password; the server is anybody's.
fn psql_at_a_terminal() -> Result<()> {
    let root = programs::root()?;
    let folder = Scratch::within(&root.join("tmp"))?;
    let mut server: Running = spawn(&mut shell(DATABASE, &folder)?)?;
    let line = server.line(SOON)?;
    ensure!(line == "up", "the database said {line}");
    let place = fs::read_to_string(folder.join("place")).context("no place")?;

    let psql = "/usr/lib/postgresql/15/bin/psql";
    let ask = || -> Result<Terminal> {
        let mut command = programs::command(psql)?;
        command
            .args(["-X", "-h", place.trim(), "-U", "postgres"])
            .env("PAGER", "cat");
        Terminal::open(&mut command)
    };
    ask()?.shows("Password for user postgres:", 1)?;

    let mut agent = Agent::run(&Config::seal(psql).value("PGPASSWORD", VALUE))?;
    let mut terminal = ask()?;
    terminal.shows("postgres=# ", 1)?;
    ensure!(
        !terminal.screen().contains("Password"),
        "{}",
        terminal.screen()
    );
    terminal.type_line("SELECT 40 + 2 AS sum;", " 42\r\n", 1)?;
    terminal.type_line("\\! echo child ${#PGPASSWORD}", "child 7", 1)?;
    // It says so, and then waits to be interrupted.
    let line = "DO $$ BEGIN RAISE NOTICE 'asleep %', 6 * 7; PERFORM pg_sleep(1000); END $$;";
    terminal.type_line(line, "asleep 42", 1)?;
    terminal.type_keys("\x03")?;
    terminal.shows("canceling statement", 1)?;
    terminal.type_line("SELECT 6 * 9 AS product;", " 54\r\n", 1)?;
    terminal.type_keys("\\q\n")?;
    terminal.ended()?;
    server.signal(Signal::SIGTERM)?;
    server.wait(SOON)?;
    ensure_all_ended(&mut agent)
}
