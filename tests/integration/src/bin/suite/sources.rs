//! Where values come from, and that nothing but the program learns them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("sources::agents_variable", agents_variable)
        .test(
            "sources::agents_variable_is_wiped",
            agents_variable_is_wiped,
        )
        .test("sources::bytes_of_a_file", bytes_of_a_file)
        .test(
            "sources::a_file_without_its_last_newlines",
            a_file_without_its_last_newlines,
        )
        .test(
            "sources::a_changed_file_is_picked_up",
            a_changed_file_is_picked_up,
        )
        .test("sources::a_mounted_secret", a_mounted_secret)
        .test(
            "sources::a_mounted_secret_of_a_namespace",
            a_mounted_secret_of_a_namespace,
        )
        .test(
            "sources::a_mounted_secret_is_replaced",
            a_mounted_secret_is_replaced,
        )
        .test("sources::a_missing_file", a_missing_file)
        .test(
            "sources::a_pipe_instead_of_a_file",
            a_pipe_instead_of_a_file,
        )
        .test("sources::a_missing_variable", a_missing_variable)
        .test("sources::all_or_nothing", all_or_nothing)
        .test(
            "sources::a_vault_that_is_not_named_is_told_at_start",
            a_vault_that_is_not_named_is_told_at_start,
        )
        .test(
            "sources::an_unmounted_secret_is_told_at_start",
            an_unmounted_secret_is_told_at_start,
        )
        .test("sources::kernelseals_readme", kernelseals_readme)
        .test("sources::no_value_is_ever_said", no_value_is_ever_said)
}

fn found() -> Result<Value> {
    Ok(report(&mut asked_for_token(probe::path("probe-static")?))?.1)
}

/// An agent with a variable of its own.
fn agent_with(name: &str, value: &str, config: &str) -> Result<Agent> {
    let mut command = Agent::command(&[]);
    command.env(name, value);
    Agent::start_as(command, config)?.readied()
}

fn from_variable() -> String {
    Config::seal("probe-static")
        .secret("TOKEN", json!({"envRef": "AGENTS_OWN"}))
        .to_string()
}

fn agents_variable() -> Result<()> {
    let _agent = agent_with("AGENTS_OWN", "of the agent", &from_variable())?;
    ensure_both(&found()?, "of the agent")
}

/// Where the agent is not guarded, its environment shows the name, zeros, and the rest.
fn agents_variable_is_wiped() -> Result<()> {
    let config = Config::seal("probe-static")
        .secret("TOKEN", json!({"envRef": "AGENTS_OWN"}))
        .policy("mode", "disabled");
    let mut command = Agent::command(&[]);
    command
        .env("AGENTS_OWN", "of-the-agent")
        .env("ANOTHER", "kept");
    let mut agent = Agent::start_as(command, &config.to_string())?;
    agent.wait_for_log("disabled", SOON)?;
    let path = format!("/proc/{}/environ", agent.pid());
    let shown = fs::read(&path).context(path)?;
    let shown = String::from_utf8_lossy(&shown);
    ensure!(shown.contains("AGENTS_OWN=\0\0"), "{shown}");
    ensure!(shown.contains("ANOTHER=kept"), "{shown}");
    ensure!(!shown.contains("agent\0"), "{shown}");
    Ok(())
}

fn from_file(path: &Path) -> Config {
    Config::seal("probe-static").secret("TOKEN", json!({"fileRef": path.to_string_lossy()}))
}

fn bytes_of_a_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let bytes: Vec<u8> = (1..=255).chain(*b" \t\r\n\n").collect();
    let path = scratch.file("secret", &bytes)?;
    let _agent = Agent::run(&from_file(&path))?;
    // The probe reports each byte as one character.
    let text: String = bytes.into_iter().map(char::from).collect();
    ensure_both(&found()?, &text)
}

fn a_file_without_its_last_newlines() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.file("secret", " kept\n\r\n\n")?;
    let source = json!({"fileRef": {"path": path.to_string_lossy(), "trim": true}});
    let _agent = Agent::run(&Config::seal("probe-static").secret("TOKEN", source))?;
    ensure_both(&found()?, " kept")
}

fn a_changed_file_is_picked_up() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.file("secret", "first")?;
    let _agent = Agent::run(&from_file(&path))?;
    ensure_both(&found()?, "first")?;
    scratch.file("secret", "second and longer")?;
    ensure_both(&found()?, "second and longer")
}

fn from_secret(folder: &Scratch, reference: &Value) -> Config {
    Config::seal("probe-static")
        .secret("TOKEN", json!({"secretKeyRef": reference}))
        .secrets_dir(folder.path().to_string_lossy())
}

fn a_mounted_secret() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.file("db/password", "mounted")?;
    let _agent = Agent::run(&from_secret(
        &scratch,
        &json!({"name": "db", "key": "password"}),
    ))?;
    ensure_both(&found()?, "mounted")
}

fn a_mounted_secret_of_a_namespace() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.file("db/password", "of no namespace")?;
    scratch.file("payments/db/password", "of payments")?;
    let reference = json!({"name": "db", "key": "password", "namespace": "payments"});
    let _agent = Agent::run(&from_secret(&scratch, &reference))?;
    ensure_both(&found()?, "of payments")
}

/// As the kubelet does it: `..data` is a link to a folder that is exchanged as a whole.
fn a_mounted_secret_is_replaced() -> Result<()> {
    let scratch = Scratch::new()?;
    scratch.file("db/..1/password", "first")?;
    scratch.file("db/..2/password", "second")?;
    let link = std::os::unix::fs::symlink::<&str, _>;
    link("..1", scratch.join("db/..data"))?;
    link("..data/password", scratch.join("db/password"))?;
    let _agent = Agent::run(&from_secret(
        &scratch,
        &json!({"name": "db", "key": "password"}),
    ))?;
    ensure_both(&found()?, "first")?;
    link("..2", scratch.join("db/..new"))?;
    fs::rename(scratch.join("db/..new"), scratch.join("db/..data"))?;
    ensure_both(&found()?, "second")
}

/// Starts the probe, which must be refused, and gives the reason.
fn refused(agent: &mut Agent) -> Result<String> {
    let mut probe = process::spawn(&mut asked_for_token(probe::path("probe-static")?))?;
    ensure!(probe.line(SOON).is_err(), "it started");
    agent.refusal(probe.pid())
}

fn a_missing_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.file("secret", "there at first")?;
    let mut agent = Agent::run(&from_file(&path))?;
    fs::remove_file(&path)?;
    let reason = refused(&mut agent)?;
    ensure!(reason.contains(&*path.to_string_lossy()), "{reason}");
    // It comes back, and so do the secrets.
    fs::write(&path, "again")?;
    ensure_both(&found()?, "again")
}

fn a_pipe_instead_of_a_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    let mut agent = Agent::run(&from_file(&path))?;
    let reason = refused(&mut agent)?;
    ensure!(reason.contains("not a regular file"), "{reason}");
    Ok(())
}

fn a_missing_variable() -> Result<()> {
    let mut agent = agent_with("ANOTHER", "not-this", &from_variable())?;
    let reason = refused(&mut agent)?;
    ensure!(reason.contains("envRef AGENTS_OWN"), "{reason}");
    Ok(())
}

fn all_or_nothing() -> Result<()> {
    let config = Config::token_for("probe-static")
        .secret("MISSING", json!({"fileRef": "/nowhere"}))
        .policy("onFailure", "allow");
    let mut agent = Agent::run(&config)?;
    let (probe, found) = report(&mut asked_for_token(probe::path("probe-static")?))?;
    probe::ensure_none(&found)?;
    let event = agent.event("REFUSED", probe.pid())?;
    ensure!(event["action"] == "started", "{event}");
    Ok(())
}

/// The line of the reference, its file, and what to do.
fn a_vault_that_is_not_named_is_told_at_start() -> Result<()> {
    let config = "version: v1\nsecrets:\n  - name: a\n    selector: {binary: probe-static}\n    secretRefs:\n      \
        - name: TOKEN\n        source: {vaultRef: {path: secret/data/app, key: token}}\n";
    let (_, said) = Agent::expect_failure(config)?;
    ensure!(said.contains("config.yaml:6:9"), "{said}");
    ensure!(
        said.contains("vaultRef") && said.contains("add `vault:`"),
        "{said}"
    );
    Ok(())
}

fn an_unmounted_secret_is_told_at_start() -> Result<()> {
    let config = "version: v1\nsecrets:\n  - name: a\n    selector: {binary: probe-static}\n    secretRefs:\n      \
        - name: TOKEN\n        source: {secretKeyRef: {name: db, key: password}}\nsecretsDir: /nowhere\n";
    let (_, said) = Agent::expect_failure(config)?;
    ensure!(said.contains("config.yaml:6:9"), "{said}");
    ensure!(
        said.contains("db/password") && said.contains("/nowhere/db"),
        "{said}"
    );
    Ok(())
}

fn kernelseals_readme() -> Result<()> {
    let config = fs::read_to_string("/usr/share/kernelseal/examples/kernelseal-readme.yaml")
        .context("the examples are given to a guest with --add")?;
    let mut agent = agent_with("KernelSeal_MY_SECRET", "of the readme", &config)?;
    let sleep = process::spawn(Command::new("sleep").arg("600"))?;
    let event = agent.event("SEALED", sleep.pid())?;
    ensure!(event["process"] == "sleep" && event["env"] == json!(["MY_SECRET"]));
    let scratch = Scratch::within(Path::new("/opt"))?;
    let mut command = Command::new(scratch.probe("probe-static", "sleep")?);
    let (_, found) = report(command.args(["--env", "MY_SECRET", "--file", "MY_SECRET"]))?;
    ensure!(found["env"]["MY_SECRET"] == "of the readme", "{found}");
    ensure!(found["files"]["MY_SECRET"]["content"] == "of the readme");
    Ok(())
}

/// Not in an event, not in the log at its most talkative, whatever goes wrong.
fn no_value_is_ever_said() -> Result<()> {
    let scratch = Scratch::new()?;
    let path = scratch.file("secret", b"file-value\0")?;
    let config = Config::seal("probe-static")
        .delivery(&["env"])
        .value("TOKEN", "inline-value")
        .secret("FROM_FILE", json!({"fileRef": path.to_string_lossy()}))
        .secret("FROM_ENV", json!({"envRef": "AGENTS_OWN"}))
        .monitoring("logLevel", "trace");
    let mut agent = agent_with("AGENTS_OWN", "variable-value", &config.to_string())?;
    let reason = refused(&mut agent)?;
    ensure!(reason.contains("NUL"), "{reason}");
    fs::write(&path, "file-value")?;
    found()?;
    let events = format!("{:?}", agent.events(Duration::from_millis(200))?);
    for value in ["inline-value", "file-value", "variable-value"] {
        ensure!(!events.contains(value), "an event says {value}");
        ensure!(!agent.log_contains(value), "the log says {value}");
    }
    Ok(())
}
