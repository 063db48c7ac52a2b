//! An agent of a node whose API server does not answer: programs of pods wait for it, bounded, and no others do.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::container::Container;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";
/// Of an authority that signs nothing.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUDiNhux4m5X1DBbmTW4uGXwOq3o8wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMTIxMzgyOFoYDzIxMjYxMDI4MjEz
ODI4WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASQwl415O+WoDNTszLaJEtkHRjwxf5Z0PjBvaRxBNYmSaLjqRhtygLN+Vpsoani
rdGy4uU8ZckCZInQPuWbB5mbo1MwUTAdBgNVHQ4EFgQUZgFLfETcsclv61JpLO+l
uXToP7UwHwYDVR0jBBgwFoAUZgFLfETcsclv61JpLO+luXToP7UwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA/jg2Zb+I2BGL99wbb+CTuwgHTs16
UkER+T9J/1w4CwgCIQDEas8ErvllYK+tBaWBQXumiul4Oo7UmcJLy95d3Ud9+A==
-----END CERTIFICATE-----
";
/// Nobody listens there.
const NOWHERE: &str = "https://127.0.0.1:1";
const HOLD: &str = "8s";
/// Three quarters of it.
const WAIT: Duration = Duration::from_secs(6);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("unknown_pods::wait_and_are_refused", are_refused)
        .test("unknown_pods::do_not_outstay_the_agent", the_agent_ends)
}

/// An agent of the node, and the programs of `probe-static` in a namespace of Kubernetes.
fn agent(scratch: &Scratch) -> Result<Agent> {
    let authority = scratch.file("ca.crt", AUTHORITY)?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": NOWHERE, "certificate-authority": authority}}],
        "users": [{"name": "test", "user": {"token": "of-nobody"}}],
    });
    let kubeconfig = scratch.file("kubeconfig", kubeconfig.to_string())?;
    let config = Config::token_for("probe-static")
        .selector("namespace", "shop")
        .and_seal("probe-dynamic")
        .value("TOKEN", "hunter2")
        .policy("holdTimeout", HOLD);
    let mut command = Command::new(Agent::command(&[]).get_program());
    command
        .env("NODE_NAME", "guest")
        .env("KUBECONFIG", kubeconfig);
    Agent::start_as(command, &config.to_string())?.readied()
}

/// A program of a container of a pod.
fn in_a_pod(place: &Place) -> Result<Command> {
    let container = Container::new(POD, "app", 2)?;
    let mut command = container.command(place, probe::path("probe-static")?)?;
    command.args(["--env", "TOKEN", "--file", "TOKEN"]);
    Ok(command)
}

/// A program of a container was started. (Its name this agent does not know: it is in no container itself.)
fn is_held(event: &Value) -> bool {
    event["type"] == "EXEC" && event["container"]["container_id"].is_string()
}

fn are_refused() -> Result<()> {
    let (scratch, place) = (Scratch::new()?, Place::pod()?);
    let mut agent = agent(&scratch)?;
    let begin = Instant::now();
    let mut waiting = in_a_pod(&place)?.spawn()?;
    agent.wait_for(is_held, WAIT)?;
    // Meanwhile others go on: one that nobody asks of pods, and one that is in none.
    let (_, found) = report(&mut asked_for_token(probe::path("probe-dynamic")?))?;
    ensure_both(&found, "hunter2")?;
    let (_, found) = report(&mut asked_for_token(probe::path("probe-static")?))?;
    ensure_none(&found)?;
    ensure!(waiting.try_wait()?.is_none(), "it did not wait");
    let told = agent.wait_for(|event| event["type"] == "REFUSED", WAIT * 2)?;
    ensure!(begin.elapsed() >= WAIT, "it waited {:?}", begin.elapsed());
    let reason = told["reason"].as_str().context("no reason")?;
    for text in [POD, "is not known", "does not answer"] {
        ensure!(reason.contains(text), "{reason}");
    }
    ensure!(told["action"] == "killed", "{told}");
    ensure!(!waiting.wait()?.success(), "it ran");
    Ok(())
}

/// One that is killed while it waits is gone for its parent, too; and the agent's end is no reason to wait on.
fn the_agent_ends() -> Result<()> {
    let (scratch, place) = (Scratch::new()?, Place::pod()?);
    let mut agent = agent(&scratch)?;
    let begin = Instant::now();
    let mut killed = in_a_pod(&place)?.spawn()?;
    let first = agent.wait_for(is_held, WAIT)?;
    let number = first["pid"].as_i64().context("no number")?;
    kill(Pid::from_raw(i32::try_from(number)?), Signal::SIGKILL)?;
    killed.wait()?;
    ensure!(begin.elapsed() < WAIT, "its parent did not hear of its end");
    let mut waiting = in_a_pod(&place)?.spawn()?;
    let another = |event: &Value| is_held(event) && event["pid"] != first["pid"];
    agent.wait_for(another, WAIT)?;
    let begin = Instant::now();
    ensure!(agent.stop()?.success());
    ensure!(!waiting.wait()?.success(), "it ran");
    ensure!(begin.elapsed() < WAIT, "the agent waited on");
    Ok(())
}
