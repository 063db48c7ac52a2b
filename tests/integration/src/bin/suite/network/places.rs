//! Whose a connection is: only those of the agent's pod, with the names of its containers, also of programs that are
//! gone by the time the agent looks.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::container::Container;
use kernelseal_integration::pod::Place;
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use serde_json::{Value, json};

use super::{LOOPBACK, READY, about, config, converse, has};

const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::a_pod_sees_its_own", a_pod_sees_its_own)
        .test("network::only_of_some_containers", only_of_some_containers)
}

struct Pod {
    place: Place,
    agent: Container,
    app: Container,
    other: Container,
}

impl Pod {
    fn new() -> Result<Self> {
        Ok(Self {
            place: Place::pod()?,
            agent: Container::new(POD, "kernelseal", 1)?,
            app: Container::new(POD, "app", 2)?,
            other: Container::new(POD, "other", 3)?,
        })
    }

    fn agent(&self, keys: &Value) -> Result<Agent> {
        let binary = Agent::command(&[]).get_program().to_owned();
        let mut command = self.agent.command(&self.place, binary)?;
        command
            .env("POD_NAME", "shop-1")
            .env("POD_NAMESPACE", "shop");
        let mut agent = Agent::start_as(command, &config(keys).to_string())?.readied()?;
        agent.wait_for_log("the network monitor is on", READY)?;
        Ok(agent)
    }

    /// A program of that container that connects and is gone. (The first of a container tells its name while it lives.)
    fn connect(&self, container: &Container, to: SocketAddr) -> Result<()> {
        self.connect_by(container, "", to)
    }

    /// The same by a program that does something before.
    fn connect_by(&self, container: &Container, by: &str, to: SocketAddr) -> Result<()> {
        let script = format!("{by} nc 127.0.0.1 {} </dev/null", to.port());
        let mut command: Command = container.command(&self.place, "sh")?;
        process::run(command.args(["-c", &script])).map(drop)
    }
}

/// A server that nobody in the pod is.
fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind(LOOPBACK)?;
    let to = listener.local_addr()?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(to)
}

fn a_pod_sees_its_own() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&json!({}))?;
    // what is not the pod's
    let (_, elsewhere) = converse(LOOPBACK)?;
    let to = server()?;
    pod.connect(&pod.app, to)?;
    let container =
        json!({"container_id": pod.app.id, "pod_name": "shop-1", "pod_namespace": "shop"});
    for event in about(&mut agent, to.port(), 2)? {
        has(&event, &json!({"direction": "outbound"}))?;
        has(&event["container"], &container)?;
    }
    about(&mut agent, elsewhere.port(), 0)?;
    // in a PID namespace within the pod's: by the pod's number, and not its own there, which is 1
    let to = server()?;
    pod.connect_by(&pod.app, "unshare -p -f", to)?;
    for event in about(&mut agent, to.port(), 2)? {
        has(&event, &json!({"process": "nc"}))?;
        has(&event["container"], &container)?;
        ensure!(event["pid"].as_u64() > Some(1), "{event}");
    }
    // one of its own that goes on, by which the container's name is known
    let mut stays = process::spawn(
        pod.app
            .command(&pod.place, "sh")?
            .args(["-c", "echo here; sleep 1000"]),
    )?;
    stays.line(super::SOON)?;
    let to = server()?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    pod.connect(&pod.app, to)?;
    for event in about(&mut agent, to.port(), 2)? {
        has(&event["container"], &container)?;
        has(&event["container"], &json!({"container_name": "app"}))?;
    }
    Ok(())
}

fn only_of_some_containers() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&json!({"containers": [&pod.app.id[..12]]}))?;
    let (ours, others) = (server()?, server()?);
    pod.connect(&pod.other, others)?;
    pod.connect(&pod.app, ours)?;
    about(&mut agent, ours.port(), 2)?;
    about(&mut agent, others.port(), 0)?;
    Ok(())
}
