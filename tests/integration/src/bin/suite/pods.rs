//! Do programs in a PID namespace of their own live as they would in a pod?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::namespace::{in_pid_namespace, process_one};
use kernelseal_integration::process::{run, spawn};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("pods::first_process_is_number_1", first_process_is_number_1)
        .test("pods::proc_shows_only_the_pod", proc_shows_only_the_pod)
        .test("pods::signals_and_status_pass", signals_and_status_pass)
        .test(
            "pods::an_agent_there_is_heard_and_ends",
            an_agent_there_is_heard_and_ends,
        )
        .test(
            "pods::a_dropped_pod_leaves_nothing",
            a_dropped_pod_leaves_nothing,
        )
}

fn first_process_is_number_1() -> Result<()> {
    let text = run(in_pid_namespace("sh").args(["-c", "echo $$; readlink /proc/self/ns/pid"]))?;
    let (number, namespace) = text.split_once('\n').context("two lines were expected")?;
    ensure!(number == "1", "the shell is process {number}");
    let ours = std::fs::read_link("/proc/self/ns/pid")?;
    ensure!(
        namespace.trim() != ours.to_string_lossy(),
        "the shell shares our namespace {namespace}"
    );
    Ok(())
}

fn proc_shows_only_the_pod() -> Result<()> {
    let text = run(in_pid_namespace("sh").args(["-c", "cd /proc; echo [0-9]*"]))?;
    ensure!(text.trim() == "1", "/proc shows the processes {text}");
    Ok(())
}

fn signals_and_status_pass() -> Result<()> {
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let mut shell = spawn(in_pid_namespace("sh").args(["-c", script]))?;
    ensure!(shell.line(SOON)? == "ready");
    shell.signal(Signal::SIGTERM)?;
    let status = shell.wait(SOON)?;
    ensure!(status.code() == Some(42), "the shell ended with {status}");
    Ok(())
}

/// A shell plays the agent: the harness is what is tested.
fn an_agent_there_is_heard_and_ends() -> Result<()> {
    let script = r#"trap 'exit 0' TERM; echo "{\"pid\":$$}"; while :; do sleep 0.05; done"#;
    let mut command = in_pid_namespace("sh");
    command.args(["-c", script, "kernelseal"]);
    let mut agent = Agent::start_as(command, "version: v1")?;
    agent.wait_for(|event| event["pid"] == 1, SOON)?;
    ensure!(agent.events(Duration::from_millis(50))?.len() == 1);
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}

fn a_dropped_pod_leaves_nothing() -> Result<()> {
    let mut shell = spawn(in_pid_namespace("sh").args(["-c", "echo ready; sleep 600; :"]))?;
    ensure!(shell.line(SOON)? == "ready");
    let inside = process_one(shell.pid())?;
    let place = format!("/proc/{inside}");
    let name = std::fs::read_to_string(format!("{place}/comm"))?;
    ensure!(name.trim() == "sh", "process 1 of the pod is {name}");
    drop(shell);
    for _ in 0..200 {
        match std::fs::read_to_string(format!("{place}/comm")) {
            Ok(now) if now == name => std::thread::sleep(Duration::from_millis(10)),
            _ => return Ok(()),
        }
    }
    anyhow::bail!("process {inside} outlived its pod by 2 s")
}
