//! Hierarchies of control groups of version 1, and what somebody makes of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::probe::{self, ensure_both, ensure_none, report};
use kernelseal_integration::process::{run, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;

use super::{CONTAINERS, PROGRAM, SOON, SUBTREE_CONTROL, config};

/// Adds this module's tests.
pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("containers::of_version_1", of_version_1)
        .test(
            "containers::a_hierarchy_that_somebody_mounts",
            a_hierarchy_that_somebody_mounts,
        )
}

/// A hierarchy of version 1, as long as it lives.
struct Version1 {
    folder: Scratch,
    /// What the unified one gave away for it.
    controller: Option<&'static str>,
}

impl Version1 {
    /// With a controller, as on a machine of version 1.
    fn with(controller: &'static str) -> Result<Self> {
        fs::write(SUBTREE_CONTROL, format!("-{controller}"))?;
        Self::mount(controller, Some(controller))
    }

    /// With none, as anybody can who may mount.
    fn named(name: &str) -> Result<Self> {
        Self::mount(&format!("none,name={name}"), None)
    }

    fn mount(options: &str, controller: Option<&'static str>) -> Result<Self> {
        let folder = Scratch::new()?;
        // (groups of other tests may just be going)
        until("it is mounted", SOON, || mount(options, &folder).is_ok())?;
        Ok(Self { folder, controller })
    }

    fn group(&self, id: &str) -> PathBuf {
        self.folder.join("docker").join(id)
    }

    /// A container's control group there, and a program in it.
    fn start(&self, id: &str) -> Result<Command> {
        let group = self.group(id);
        fs::create_dir_all(&group)?;
        let script = format!(
            "echo 0 > {}/cgroup.procs && exec {} --env TOKEN --file TOKEN",
            group.display(),
            probe::path(PROGRAM)?.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        Ok(command)
    }
}

impl Drop for Version1 {
    fn drop(&mut self) {
        for id in CONTAINERS {
            let group = self.group(id);
            // (it goes when its last process is reaped)
            let gone = until("a group is empty", SOON, || {
                fs::remove_dir(&group).is_ok() || !group.exists()
            });
            gone.expect("nobody is left in a group");
        }
        let _ = fs::remove_dir(self.folder.join("docker"));
        unmount(&self.folder).expect("it was mounted");
        if let Some(controller) = self.controller {
            let back = until("the controller is back", SOON, || {
                // Unmounted before its last group is quite gone it stays, for the next who mounts it. (Its end takes a
                // moment, too.)
                thread::sleep(Duration::from_millis(500));
                fs::write(SUBTREE_CONTROL, format!("+{controller}")).is_ok()
                    || (mount(controller, &self.folder).is_ok() && unmount(&self.folder).is_err())
            });
            back.expect("nobody else took it");
        }
    }
}

fn mount(options: &str, folder: &Scratch) -> Result<String> {
    let mut command = Command::new("mount");
    command.args(["-t", "cgroup", "-o", options, "none"]);
    run(command.arg(folder.path()))
}

fn unmount(folder: &Scratch) -> Result<String> {
    run(Command::new("umount").arg(folder.path()))
}

/// There all processes have one control group in the hierarchy whose numbers the kernel side knows.
fn of_version_1() -> Result<()> {
    let [app, other] = CONTAINERS;
    let machine = Version1::with("pids")?;
    let mut agent = Agent::run(&config().selector("container", app))?;
    for _ in 0..2 {
        let (_, found) = report(&mut machine.start(app)?)?;
        ensure_both(&found, "hunter2")?;
        let (_, found) = report(&mut machine.start(other)?)?;
        ensure_none(&found)?;
    }
    let events = agent.events(Duration::from_millis(300))?;
    let sealed = events.iter().filter(|event| event["type"] == "SEALED");
    ensure!(sealed.clone().count() == 2, "{events:?}");
    ensure!(
        sealed
            .into_iter()
            .all(|event| event["container"]["container_id"] == app),
        "{events:?}"
    );
    ensure!(agent.stop()?.success());
    Ok(())
}

/// Root that is in no container mounts one and names a group in it as it likes.
fn a_hierarchy_that_somebody_mounts() -> Result<()> {
    let [app, _] = CONTAINERS;
    let mut agent = Agent::run(&config().selector("container", app))?;
    let mounted = Version1::named("systemd")?;
    let (_, found) = report(&mut mounted.start(app)?)?;
    ensure_none(&found)?;
    let events = agent.events(Duration::from_millis(300))?;
    ensure!(
        !events.iter().any(|event| event["type"] == "SEALED"),
        "{events:?}"
    );
    Ok(())
}
