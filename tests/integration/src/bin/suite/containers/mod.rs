//! Selecting by container, namespace, labels and control group, with the agent in a container of its own.

mod version_1;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::container::Container;
use kernelseal_integration::namespace::{number_inside, process_one};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, ensure_both, ensure_none, report};
use kernelseal_integration::process::spawn;
use kernelseal_integration::registry::Registry;
use serde_json::json;

const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const OTHER_POD: &str = "99999999-1111-2222-3333-444455556666";
const LABELS: &str = "/etc/podinfo/labels";
const SOON: Duration = Duration::from_secs(20);
const PROGRAM: &str = "probe-static";
const SUBTREE_CONTROL: &str = "/sys/fs/cgroup/cgroup.subtree_control";
/// Ids as container runtimes give them.
const CONTAINERS: [&str; 2] = [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    version_1::register(registry)
        .test("containers::by_name", by_name)
        .test("containers::by_id", by_id)
        .test(
            "containers::by_namespace_and_labels",
            by_namespace_and_labels,
        )
        .test(
            "containers::by_cgroup_in_a_namespace",
            by_cgroup_in_a_namespace,
        )
        .test(
            "containers::variables_they_were_started_with",
            variables_they_were_started_with,
        )
        .test("containers::a_name_that_is_claimed", a_name_that_is_claimed)
        .test(
            "containers::a_control_group_of_ones_own",
            a_control_group_of_ones_own,
        )
        .test(
            "containers::a_name_that_nothing_tells",
            a_name_that_nothing_tells,
        )
        .test(
            "containers::what_cannot_be_known_is_told_at_start",
            what_cannot_be_known,
        )
}

/// A pod of an agent's container, an application's and another.
pub struct Pod {
    pub place: Place,
    pub agent: Container,
    pub app: Container,
    pub other: Container,
}

impl Pod {
    pub fn new() -> Result<Self> {
        Ok(Self {
            place: Place::pod()?,
            agent: Container::new(POD, "kernelseal", 1)?,
            app: Container::new(POD, "app", 2)?,
            other: Container::new(POD, "other", 3)?,
        })
    }

    pub fn agent(&self, config: &Config) -> Result<Agent> {
        let binary = Agent::command(&[]).get_program().to_owned();
        let mut command = self.agent.command(&self.place, binary)?;
        command
            .env("POD_NAME", "shop-1")
            .env("POD_NAMESPACE", "shop");
        Agent::start_as(command, &config.to_string())?.readied()
    }

    fn start(&self, container: &Container) -> Result<Command> {
        let mut command = container.command(&self.place, probe::path(PROGRAM)?)?;
        command.args(["--env", "TOKEN", "--file", "TOKEN"]);
        Ok(command)
    }

    fn ensure_only_the_app(&self, agent: &mut Agent) -> Result<()> {
        let (_, found) = report(&mut self.start(&self.app)?)?;
        ensure_both(&found, "hunter2")?;
        let (_, found) = report(&mut self.start(&self.other)?)?;
        ensure_none(&found)?;
        let events = agent.events(Duration::from_millis(300))?;
        let sealed: Vec<_> = events
            .iter()
            .filter(|event| event["type"] == "SEALED")
            .collect();
        ensure!(sealed.len() == 1, "{events:?}");
        let container = json!({
            "container_id": self.app.id, "container_name": "app", "pod_name": "shop-1", "pod_namespace": "shop",
        });
        ensure!(sealed[0]["container"] == container, "{sealed:?}");
        ensure!(
            !events.iter().any(|event| event["type"] == "REFUSED"),
            "{events:?}"
        );
        Ok(())
    }
}

fn config() -> Config {
    Config::token_for(PROGRAM)
}

/// What brings code is what the container was started with, or refused. Of its first process that is sealed it is remembered.
fn variables_they_were_started_with() -> Result<()> {
    const OPTIONS: &str = "JAVA_TOOL_OPTIONS";
    let pod = Pod::new()?;
    let mut agent = pod.agent(&config())?;
    let mut first = pod.app.command(&pod.place, "sh")?;
    first.args(["-c", "echo here; sleep 1000"]);
    let mut first = spawn(first.env(OPTIONS, "-Dours").env("OTHER", "x"))?;
    first.line(SOON)?;
    let mut sealed = pod.start(&pod.other)?;
    sealed.args(["--sleep", "600"]).env(OPTIONS, "-Dtheirs");
    let (_sealed, found) = report(&mut sealed)?;
    ensure_both(&found, "hunter2")?;
    for (container, ours) in [(&pod.app, "-Dours"), (&pod.other, "-Dtheirs")] {
        let (_, found) = report(pod.start(container)?.env(OPTIONS, ours))?;
        ensure_both(&found, "hunter2")?;
        for (name, value) in [
            (OPTIONS, "-javaagent:/tmp/evil.jar"),
            ("NODE_OPTIONS", "-r /x"),
        ] {
            let mut probe = spawn(pod.start(container)?.env(name, value))?;
            ensure!(probe.line(SOON).is_err(), "it started with {name}={value}");
            let events = agent.events(Duration::from_millis(500))?;
            let reasons = events
                .iter()
                .rev()
                .filter_map(|event| event["reason"].as_str());
            let reason = reasons.take(1).collect::<String>();
            ensure!(reason.contains(name), "{name}: {events:?}");
        }
    }
    let events = agent.events(Duration::from_millis(100))?;
    let is_blocked = |event: &serde_json::Value| event["type"] == "BLOCKED";
    ensure!(!events.iter().any(is_blocked), "{events:?}");
    Ok(())
}

fn by_name() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&config().selector("container", "app"))?;
    pod.ensure_only_the_app(&mut agent)
}

fn by_id() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&config().selector("container", &pod.app.id[..12]))?;
    pod.ensure_only_the_app(&mut agent)
}

fn by_namespace_and_labels() -> Result<()> {
    let pod = Pod::new()?;
    fs::create_dir_all("/etc/podinfo")?;
    fs::write(LABELS, "app=\"checkout\"\ntier=\"web\"")?;
    let config = config()
        .selector("namespace", "shop")
        .selector("labels", json!({"app": "checkout"}));
    let _agent = pod.agent(&config)?;
    ensure_both(&report(&mut pod.start(&pod.app)?)?.1, "hunter2")?;
    // as the kubelet does when somebody changes them
    fs::write(LABELS, "app=\"other\"\ntier=\"web\"")?;
    ensure_none(&report(&mut pod.start(&pod.app)?)?.1)?;
    fs::remove_file(LABELS)?;
    let refused = report(&mut pod.start(&pod.app)?);
    ensure!(
        refused.is_err(),
        "labels that are not known are not those that are wanted"
    );
    Ok(())
}

/// The agent does not see the way from the machine's root to its own control group.
fn by_cgroup_in_a_namespace() -> Result<()> {
    let pod = Pod::new()?;
    let path = pod.app.cgroup().to_string_lossy().into_owned();
    let mut agent = pod.agent(&config().selector("cgroupPath", path))?;
    pod.ensure_only_the_app(&mut agent)?;
    drop(agent);
    let all = format!("/kubepods/burstable/pod{POD}");
    let _agent = pod.agent(&config().selector("cgroupPath", all))?;
    ensure_both(&report(&mut pod.start(&pod.other)?)?.1, "hunter2")
}

/// Root of another container, with every capability: a mount of its own making, the application's mount
/// namespace, and a parent that is gone.
fn a_name_that_is_claimed() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&config().selector("container", "app"))?;
    let (app, _) = report(pod.start(&pod.app)?.args(["--sleep", "600"]))?;
    let program = probe::path(PROGRAM)?.display().to_string();
    let ask = format!("{program} --env TOKEN --file TOKEN");
    let forged = format!("/tmp/forged/var/lib/kubelet/pods/{POD}/containers/app");
    let inside = number_inside(process_one(app.pid())?)?;
    for trick in [
        format!(
            "mkdir -p /tmp/forged && mount -t tmpfs x /tmp/forged && mkdir -p {forged} && echo > {forged}/1 && mount --bind {forged}/1 /termination-log && exec {ask}"
        ),
        format!(
            "mkdir -p {forged} && echo > {forged}/1 && umount /termination-log; mount --bind {forged}/1 /termination-log && exec {ask}"
        ),
        format!("exec nsenter -m -t {inside} {ask}"),
        format!("nsenter -m -t {inside} sh -c '(sleep 1; exec {ask}) &'; sleep 3"),
    ] {
        let output = pod
            .other
            .command(&pod.place, "sh")?
            .args(["-c", &trick])
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(!told.contains("hunter2"), "{trick}: {told}");
        ensure!(
            told.contains("\"TOKEN\":null"),
            "it did not run: {trick}: {output:?}"
        );
    }
    let sealed = agent.events(Duration::from_millis(300))?.iter();
    ensure!(sealed.filter(|event| event["type"] == "SEALED").count() == 1);
    Ok(())
}

/// Who may make control groups below its own names them like the application's pod and container.
fn a_control_group_of_ones_own() -> Result<()> {
    let pod = Pod::new()?;
    for wanted in ["app", &pod.app.id] {
        let mut agent = pod.agent(&config().selector("container", wanted))?;
        let own = Path::new("/sys/fs/cgroup").join(pod.other.cgroup().strip_prefix("/")?);
        for below in ["", "kubelet/kubepods"] {
            let inner = own.join(below).join(format!("pod{POD}")).join(&pod.app.id);
            let script = format!(
                "mkdir -p {0} && echo 0 > {0}/cgroup.procs && exec {1} --env TOKEN --file TOKEN",
                inner.display(),
                probe::path(PROGRAM)?.display()
            );
            let mut command = pod.other.command(&pod.place, "sh")?;
            let (_, found) = report(command.args(["-c", &script]))?;
            ensure_none(&found)?;
        }
        let events = agent.events(Duration::from_millis(300))?;
        ensure!(
            !events.iter().any(|event| event["type"] == "SEALED"),
            "{events:?}"
        );
        ensure!(agent.stop()?.success());
    }
    Ok(())
}

/// Outside of Kubernetes, and of another pod's container, the name is not known: it is refused, not let go.
fn a_name_that_nothing_tells() -> Result<()> {
    let pod = Pod::new()?;
    let mut agent = pod.agent(&config().selector("container", "app"))?;
    let stranger = Container::new(OTHER_POD, "app", 9)?;
    let refused = report(&mut pod.start(&stranger)?);
    ensure!(refused.is_err(), "{:?}", refused.map(|(_, found)| found));
    let told = agent.wait_for(|event| event["type"] == "REFUSED", Duration::from_secs(20))?;
    let reason = told["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("the name of its container"), "{reason}");
    Ok(())
}

fn what_cannot_be_known() -> Result<()> {
    let config = config()
        .selector("namespace", "shop")
        .selector("labels", json!({"app": "checkout"}));
    let (_, log) = Agent::expect_failure(&config.to_string())?;
    for key in ["selector.namespace", "selector.labels"] {
        ensure!(log.contains(key), "{log}");
    }
    ensure!(!Path::new("/sys/fs/bpf/kernelseal/v0").exists());
    Ok(())
}
