//! Root in the agent's own pod does not stop it, look into it, use the kernel's instruments beside it, or
//! take secret files away; the node outside of the pod does what it always did.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::namespace::{number_inside, process_one};
use kernelseal_integration::pinned;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe;
use kernelseal_integration::process::{Running, run, spawn, state, until};
use kernelseal_integration::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sidecar_common::policy::Vault;

use super::lines;
use super::scene::{FILE, PORT, SECRET, agent_in, config, kernelseal};
use super::ways::{AGENT, CHANGES, IDS, INSTRUMENTS, MOUNTS, OWN, PINS, SWITCHES, TUNABLES};
use crate::scopes::Pod;

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_mins(5);
const POLICY: &str = "mode: enforce";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("neighbours::leave_the_agent_alone", LIMIT, || {
            leave_alone(Ok)
        })
        .slow_test("neighbours::leave_the_guardian_alone", LIMIT, || {
            leave_alone(process_one)
        })
        .slow_test("neighbours::have_no_instruments", LIMIT, no_instruments)
        .slow_test("neighbours::change_no_tunable", LIMIT, change_no_tunable)
        .slow_test("neighbours::below_a_node_change_no_switch", LIMIT, || {
            below_a_node("mode: enforce")
        })
        .slow_test("neighbours::below_a_node_in_audit_mode", LIMIT, || {
            below_a_node("mode: audit")
        })
        .slow_test(
            "neighbours::as_process_one_ends",
            LIMIT,
            as_process_one_ends,
        )
        .slow_test("neighbours::leave_the_files_alone", LIMIT, leave_the_files)
        .slow_test("neighbours::change_no_file", LIMIT, change_no_file)
        .slow_test("neighbours::moved_files", LIMIT, moved_files)
        .slow_test("neighbours::are_not_held_up", LIMIT, are_not_held_up)
        .slow_test("neighbours::see_who_runs", LIMIT, see_who_runs)
        .slow_test("neighbours::of_no_agent_may", LIMIT, of_no_agent_may)
        .slow_test("neighbours::on_a_machine_may", LIMIT, on_a_machine_may)
        .slow_test("neighbours::the_node_may", LIMIT, the_node_may)
        .slow_test("neighbours::a_new_agent_begins", LIMIT, a_new_agent_begins)
}

/// Tries them in a place.
fn tried(place: &Place, arguments: &[&str]) -> Result<Vec<Value>> {
    lines(place.command(probe::path("neighbour")?)?.args(arguments))
}

/// Fails unless each of the ways was tried and ended so.
fn ensure_ended(found: &[Value], ways: &[(&str, &str)], errno: i32) -> Result<()> {
    let mut wrong = Vec::new();
    for (way, _) in ways {
        // (procfs makes EACCES of every refusal to follow one of its links)
        let is_link = ["root", "threads_root", "cwd", "exe", "ns"].contains(way);
        let errno = if errno == libc::EPERM && is_link {
            libc::EACCES
        } else {
            errno
        };
        match found.iter().find(|line| line["way"] == *way) {
            Some(line) if line["errno"] == errno => {}
            Some(line) => wrong.push(line.to_string()),
            None => wrong.push(format!("{way} was not tried")),
        }
    }
    ensure!(
        wrong.is_empty() && found.len() == ways.len(),
        "errno {errno} was expected:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

/// Each was told, of whoever tried.
fn ensure_told(agent: &mut Agent, ways: &[(&str, &str)]) -> Result<()> {
    for (way, access) in ways.iter().filter(|(_, access)| !access.is_empty()) {
        let told = |event: &Value| {
            event["type"] == "BLOCKED"
                && event["access"] == *access
                && event["process"] == "neighbour"
        };
        agent
            .wait_for(told, SOON)
            .with_context(|| format!("BLOCKED for {way}"))?;
    }
    Ok(())
}

fn target(place: &Place) -> Result<(Running, String)> {
    let mut command = place.command(probe::path("probe-static")?)?;
    command.env_clear().env("PATH", "/usr/bin:/bin");
    let mut target = spawn(command.args(["--env", FILE, "--file", FILE, "--sleep", "600"]))?;
    let found = target.json(SOON)?;
    ensure!(found["env"][FILE] == SECRET, "no secret in {found}");
    let folder = format!("/run/kernelseal/secrets/{}", found["pid"]);
    Ok((target, folder))
}

fn leave_alone(whom: fn(u32) -> Result<u32>) -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    let outside = whom(process_one(agent.pid())?)?;
    let number = number_inside(outside)?.to_string();
    let found = tried(&place, &["agent", &number])?;
    ensure_ended(&found, &AGENT, libc::EPERM)?;
    ensure_told(&mut agent, &AGENT)?;
    ensure!(
        state(outside).is_some_and(|state| state != 'T' && state != 'Z'),
        "it was ended or stopped"
    );
    target(&place).map(drop)
}

/// From the agent's first moment on: what is set up before anything is sealed would stay.
fn no_instruments() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    ensure_ended(&tried(&place, &["instruments"])?, &INSTRUMENTS, libc::EPERM)?;
    ensure_told(&mut agent, &INSTRUMENTS)?;
    // Not even our own program, which says why.
    let status = place.command(kernelseal())?.arg("status").output()?;
    let said = String::from_utf8(status.stderr)?;
    ensure!(
        !status.status.success() && said.contains("Ask on the node"),
        "{said}"
    );
    let below = place.pod_below()?;
    ensure_ended(&tried(&below, &["instruments"])?, &INSTRUMENTS, libc::EPERM)
}

/// Files by which the whole node's kernel is told what to do: whatever they are, but for those of a namespace's own.
fn change_no_tunable() -> Result<()> {
    let place = Place::pod()?;
    ensure_ended(&tried(&place, &["tunables"])?, &TUNABLES, 0)?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    ensure_ended(&tried(&place, &["tunables"])?, &TUNABLES, libc::EPERM)?;
    ensure_told(&mut agent, &TUNABLES)?;
    ensure_ended(&tried(&place, &["switches"])?, &SWITCHES, libc::EPERM)?;
    ensure_told(&mut agent, &SWITCHES)?;
    ensure_ended(&tried(&place, &["pins"])?, &PINS, libc::EPERM)?;
    ensure_told(&mut agent, &PINS)?;
    ensure_ended(&tried(&place, &["own"])?, &OWN, 0)
}

/// A pod that a node's agent answers for: what takes the guard off the node is kept from it, in any mode, and nothing else.
fn below_a_node(policy: &str) -> Result<()> {
    let (mut agent, _) = agent_in(&Place::Machine, policy)?;
    let place = Place::pod()?;
    ensure_ended(&tried(&place, &["switches"])?, &SWITCHES, libc::EPERM)?;
    ensure_told(&mut agent, &SWITCHES)?;
    ensure_ended(&tried(&place, &["pins"])?, &PINS, libc::EPERM)?;
    ensure_told(&mut agent, &PINS)?;
    ensure_ended(&tried(&place, &["ids"])?, &IDS, libc::EPERM)?;
    ensure_told(&mut agent, &IDS)?;
    ensure_ended(&tried(&place, &["own_ids"])?, &[("own", "")], 0)?;
    ensure_ended(&tried(&place, &["tunables"])?, &TUNABLES, 0)?;
    ensure_ended(&tried(&place, &["own"])?, &OWN, 0)?;
    // On the node itself all of it is allowed, and told.
    let errno = tried(&Place::Machine, &["switches"])?;
    ensure_ended(&errno, &SWITCHES, 0)?;
    agent
        .wait_for(
            |event| event["access"] == "ftrace_enabled" && event["verdict"] == "allowed",
            SOON,
        )
        .map(drop)
}

/// As long as anything of the pod lives, so does the scope: its process 1 may take its time to end.
fn as_process_one_ends() -> Result<()> {
    let place = Place::pod_of(&probe::path("slow_end")?)?;
    let Place::Pod { number, .. } = &place else {
        bail!("a pod is a pod");
    };
    let first = Pid::from_raw(number.cast_signed());
    let mut other = Pod::start(Place::pod()?, "other")?;
    let agent = quiet_agent_in(&place)?;
    let outside = process_one(agent.pid())?;
    let (_target, _) = target(&place)?;
    let mut command = place.command(probe::path("neighbour")?)?;
    let mut watching = spawn(command.args(["watch", &number_inside(outside)?.to_string()]))?;
    ensure!(watching.json(SOON)?["way"] == "begun");
    kill(first, Signal::SIGTERM)?;
    // It ends with the pod.
    let mut allowed = Vec::new();
    while let Ok(line) = watching.json(LIMIT) {
        allowed.push(line);
    }
    let status = agent.stop()?;
    ensure!(!status.success(), "the agent survived its pod: {status}");
    ensure!(allowed.is_empty(), "{allowed:?}");
    // The other pod's agent guards as before.
    let target = other.seals()?;
    let environ = format!("/proc/{}/environ", process_one(target.pid())?);
    ensure!(
        File::open(environ).is_err(),
        "another pod's agent guards nothing"
    );
    Ok(())
}

/// One that answers nobody over HTTP.
fn quiet_agent_in(place: &Place) -> Result<Agent> {
    let text = config(POLICY).replace(&format!("metricsPort: {PORT}"), "metricsPort: 0");
    Agent::start_as(place.command(kernelseal())?, &text)?.readied()
}

fn leave_the_files() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    let (target, folder) = target(&place)?;
    ensure_ended(&tried(&place, &["mounts", &folder])?, &MOUNTS, libc::EPERM)?;
    ensure_told(&mut agent, &MOUNTS)?;
    // And in a mount namespace that it made for itself.
    let found = tried(&place, &["mounts", &folder, "apart"])?;
    ensure_ended(&found, &MOUNTS, libc::EPERM)?;
    drop(target);
    // What is left of it is taken away by the agent.
    let inside = process_one(agent.pid())?;
    until("the files are taken away", SOON, || {
        std::fs::read_to_string(format!("/proc/{inside}/mountinfo"))
            .is_ok_and(|mounts| !mounts.contains(&folder))
    })
}

/// By names alone, nothing being opened: the file system is read-only, and stays so.
fn change_no_file() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    let (target, folder) = target(&place)?;
    let found = tried(&place, &["change", &folder, FILE])?;
    ensure_ended(&found, &CHANGES, libc::EROFS)?;
    // It can also be the mount that is made so (5.12), of which no hook hears. It goes, and is wiped.
    let found = tried(&place, &["read-only", &folder])?;
    ensure_ended(&found, &[("read_only_mount", "")], 0)
        .or_else(|_| ensure_ended(&found, &[("read_only_mount", "")], libc::ENOSYS))?;
    let inside = process_one(agent.pid())?;
    let maps = || pinned::hash::<u64, Vault>("VAULTS");
    ensure!(maps()?.keys().count() == 1);
    drop(target);
    until("the files are taken away", SOON, || {
        std::fs::read_to_string(format!("/proc/{inside}/mountinfo"))
            .is_ok_and(|mounts| !mounts.contains(&folder))
    })?;
    // (with the last descriptor, which is kept until they are wiped)
    until("the file system is gone", SOON, || {
        maps().is_ok_and(|vaults| vaults.keys().count() == 0)
    })?;
    ensure!(!agent.log_contains("could not be wiped"));
    Ok(())
}

/// mount(2) tells the hook no more of what is moved than a text: it succeeds, and shows nothing.
fn moved_files() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    let (_target, folder) = target(&place)?;
    ensure_ended(&tried(&place, &["move", &folder])?, &[("moved", "")], 0)?;
    let script = "cat /tmp/neighbour-moved/* /tmp/neighbour-moved/PGPASSWORD; umount -l /tmp/neighbour-moved; true";
    let said = run(place
        .command("sh")?
        .args(["-c", script])
        .stderr(Stdio::null()))?;
    ensure!(said.is_empty(), "{said}");
    agent.wait_for(|event| event["access"] == "secret_file", SOON)?;
    agent
        .wait_for(|event| event["access"] == "mount", SOON)
        .map(drop)
}

/// What programs ordinarily do with mounts and signals goes on beside an agent.
fn are_not_held_up() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, _) = agent_in(&place, POLICY)?;
    let script = "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && mount -o remount,size=1m /tmp/m && umount /tmp/m
        sleep 100 & kill -STOP $! && kill $! && kill -CONT $!; wait $!; ulimit -n 100; echo done";
    let said = run(place.command("sh")?.args(["-c", script]))?;
    ensure!(said.trim() == "done", "{said}");
    let blocked = agent
        .events(Duration::from_millis(400))?
        .iter()
        .filter(|event| event["type"] == "BLOCKED")
        .count();
    ensure!(blocked == 0, "{blocked} were refused");
    Ok(())
}

/// `ps`, `top` and `kill -0` know the agent, and no event tells of them.
fn see_who_runs() -> Result<()> {
    let place = Place::pod()?;
    let (mut agent, number) = agent_in(&place, POLICY)?;
    let script = format!(
        "ps -o pid,comm | grep -w {number}; top -b -n 1 >/dev/null && kill -0 {number} && cat /proc/{number}/stat /proc/{number}/status >/dev/null && echo seen"
    );
    let said = run(place.command("sh")?.args(["-c", &script]))?;
    ensure!(
        said.contains("kernelseal") && said.contains("seen"),
        "{said}"
    );
    let events = agent.events(Duration::from_millis(400))?;
    ensure!(
        !events.iter().any(|event| event["type"] == "BLOCKED"),
        "{events:?}"
    );
    Ok(())
}

/// The ways are ways: where there is no agent, every one is open.
fn of_no_agent_may() -> Result<()> {
    let place = Place::pod()?;
    let script = "trap '' USR1 TERM; echo $$; while :; do sleep 1; done";
    let mut stand_in = spawn(place.command("sh")?.args(["-c", script]))?;
    let number = stand_in.line(SOON)?;
    ensure_ended(&tried(&place, &["agent", &number])?, &AGENT, 0)?;
    ensure_ended(&tried(&place, &["instruments"])?, &INSTRUMENTS, 0)
}

/// Where the agent was started on the machine itself, its root is not kept from what is root's.
fn on_a_machine_may() -> Result<()> {
    let (agent, _) = agent_in(&Place::Machine, POLICY)?;
    ensure_ended(&tried(&Place::Machine, &["instruments"])?, &INSTRUMENTS, 0)?;
    let (_target, folder) = target(&Place::Machine)?;
    // (what is shared with other mount namespaces is not moved)
    let found = tried(&Place::Machine, &["mounts", &folder, "apart"])?;
    ensure_ended(&found, &MOUNTS, 0)?;
    agent.signal(Signal::SIGSTOP)?;
    agent.signal(Signal::SIGCONT)?;
    File::open(format!("/proc/{}/root/etc", agent.pid()))?;
    Ok(())
}

/// The container's runtime looks into the agent, and ends it in order.
fn the_node_may() -> Result<()> {
    let place = Place::pod()?;
    let (agent, _) = agent_in(&place, POLICY)?;
    let outside = process_one(agent.pid())?;
    ensure_ended(&tried(&Place::Machine, &["instruments"])?, &INSTRUMENTS, 0)?;
    for name in ["root/etc", "cwd", "exe", "ns/mnt"] {
        File::open(format!("/proc/{outside}/{name}")).context(name)?;
    }
    let (target, folder) = target(&place)?;
    let inside = process_one(target.pid())?.to_string();
    run(Command::new("nsenter").args(["-t", &inside, "-m", "umount", "-l", &folder]))?;
    let signal = |signal| kill(Pid::from_raw(outside.cast_signed()), signal);
    signal(Signal::SIGSTOP)?;
    signal(Signal::SIGCONT)?;
    signal(Signal::SIGTERM)?;
    until("the agent ends", SOON, || state(outside).is_none())?;
    ensure!(agent.stop()?.success());
    Ok(())
}

/// In the agent's absence nobody who was started in the pod has instruments; the next agent begins.
fn a_new_agent_begins() -> Result<()> {
    let place = Place::pod()?;
    let (agent, _) = agent_in(&place, POLICY)?;
    let (first, _) = target(&place)?;
    kill(
        Pid::from_raw(process_one(agent.pid())?.cast_signed()),
        Signal::SIGKILL,
    )?;
    let _killed = agent.stop()?;
    thread::sleep(Duration::from_millis(100));
    // (each way is a child of a program of the pod)
    ensure_ended(&tried(&place, &["instruments"])?, &INSTRUMENTS, libc::EPERM)?;
    let (_agent, _) = agent_in(&place, POLICY)?;
    let (second, _) = target(&place)?;
    drop((first, second));
    Ok(())
}
