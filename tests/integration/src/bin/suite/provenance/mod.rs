//! Programs get secrets that come from the image of their container or, on a machine of its own, from root alone; who takes their
//! name does not start.

mod libraries;
mod machine;
mod mounts;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::container::{Container, Deed};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, ensure_both, report};
use kernelseal_integration::process::{run, spawn};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount, umount};
use serde_json::Value;

use crate::identity::digest;

const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const SOON: Duration = Duration::from_secs(20);
/// The first kernel on which a user namespace may mount an overlay.
const OVERLAYS_OF_USERS: (u32, u32) = (5, 11);
/// What is to have the secret.
const NAME: &str = "target";
/// Another program of the image.
const OTHER: &str = "other";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("provenance::what_is_in_the_image", what_is_in_the_image)
        .test("provenance::what_came_later", what_came_later)
        .test("provenance::links_of_the_image", links_of_the_image)
        .test(
            "provenance::mounts_in_a_container",
            mounts::mounts_in_a_container,
        )
        .test(
            "provenance::an_image_of_ones_own",
            mounts::an_image_of_ones_own,
        )
        .test(
            "provenance::an_image_of_a_user_namespace",
            mounts::an_image_of_a_user_namespace,
        )
        .test("provenance::scripts_of_the_image", scripts_of_the_image)
        .test(
            "provenance::libraries_of_the_image",
            libraries::libraries_of_the_image,
        )
        .test("provenance::as_the_binding_has_it", as_the_binding_has_it)
        .test("provenance::of_a_machine", machine::of_a_machine)
}

/// A container whose root is an overlay over an image, and an agent beside it.
struct Pod {
    root: PathBuf,
    place: Place,
    agent: Container,
    app: Container,
    /// Of another image, in which the same name is another program's.
    other: Container,
    /// Their layers.
    scratch: Scratch,
}

impl Pod {
    /// What makes the image is told where it is.
    fn new(make: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let scratch = Scratch::new()?;
        let image = scratch.join("image");
        for folder in ["tmp", "proc", "run"] {
            fs::create_dir_all(image.join(folder))?;
        }
        for name in [NAME, OTHER] {
            scratch.probe("probe-static", format!("image/usr/bin/{name}"))?;
        }
        make(&image)?;
        let image_of_other = scratch.join("image-other");
        fs::create_dir_all(image_of_other.join("proc"))?;
        scratch.probe("probe-static", "image-other/target")?;
        let root = overlay(&scratch, "", &image)?;
        let root_of_other = overlay(&scratch, "-other", &image_of_other)?;
        Ok(Self {
            place: Place::pod()?,
            agent: Container::new(POD, "kernelseal", 1)?,
            app: Container::new(POD, "app", 2)?.rooted(&root),
            other: Container::new(POD, "other", 3)?.rooted(&root_of_other),
            root,
            scratch,
        })
    }

    /// What looks like an image, made in the container: where it is to be mounted, and how.
    fn make_image(&self) -> Result<(PathBuf, String)> {
        let made = self.root.join("tmp");
        for folder in ["image", "more", "root"] {
            fs::create_dir(made.join(folder))?;
        }
        fs::copy(self.root.join("usr/bin/other"), made.join("image/target"))?;
        // (two layers below, and none above that could be written)
        let layers = "lowerdir=/tmp/image:/tmp/more".to_owned();
        Ok(("/tmp/root".into(), layers))
    }

    fn agent(&self, config: &Config) -> Result<Agent> {
        let binary = Agent::command(&[]).get_program().to_owned();
        let command = self.agent.command(&self.place, binary)?;
        Agent::start_as(command, &config.to_string())?.readied()
    }

    fn start(&self, program: &str, deeds: &[Deed<'_>]) -> Result<Command> {
        let mut command = self.app.command_after(&self.place, deeds, program)?;
        command.args(["--env", "TOKEN", "--file", "TOKEN"]);
        Ok(command)
    }

    fn is_given(&self, program: &str) -> Result<()> {
        let (_, found) = report(&mut self.start(program, &[])?)?;
        ensure_both(&found, "hunter2").with_context(|| program.to_owned())
    }

    fn is_refused(&self, agent: &mut Agent, program: &str, why: &str) -> Result<()> {
        self.is_refused_after(agent, &[], program, why)
    }

    fn is_refused_after(
        &self,
        agent: &mut Agent,
        deeds: &[Deed<'_>],
        program: &str,
        why: &str,
    ) -> Result<()> {
        refused(agent, &mut self.start(program, deeds)?, why)
            .with_context(|| format!("{program} after {deeds:?}"))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for root in ["root", "root-other"] {
            let _ = umount(&self.scratch.join(root));
        }
    }
}

/// Mounts an overlay as a container's runtime does; where.
fn overlay(scratch: &Scratch, name: &str, image: &Path) -> Result<PathBuf> {
    let folder = |kind: &str| scratch.join(format!("{kind}{name}"));
    for kind in ["upper", "work", "root"] {
        fs::create_dir(folder(kind))?;
    }
    let root = folder("root");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        image.display(),
        folder("upper").display(),
        folder("work").display()
    );
    let overlay = Some("overlay");
    mount(
        overlay,
        &root,
        overlay,
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("mount an overlay")?;
    fs::write(root.join("termination-log"), "")?;
    Ok(root)
}

/// Whatever the binding has, but what comes from anywhere.
fn config(binary: &str) -> Config {
    Config::token_for(binary).selector("provenance", "image")
}

fn refused(agent: &mut Agent, command: &mut Command, why: &str) -> Result<()> {
    let mut refusals = |wait| -> Result<Vec<Value>> {
        let events = agent.events(wait)?.iter();
        let refusals = events.filter(|event| event["type"] == "REFUSED");
        Ok(refusals.cloned().collect())
    };
    let before = refusals(Duration::ZERO)?.len();
    let mut probe = spawn(command)?;
    if let Ok(line) = probe.line(SOON) {
        bail!("it started and said {line}");
    }
    probe.wait(SOON)?;
    let refusals = refusals(Duration::from_millis(500))?;
    // (what did not come to its exec has none of its own)
    ensure!(
        refusals.len() == before + 1,
        "{before} before: {refusals:?}"
    );
    let reason = refusals[before]["reason"].as_str().context("no reason")?;
    ensure!(reason.contains(why), "not for {why:?}: {reason}");
    ensure!(reason.contains("provenance"), "no fix: {reason}");
    Ok(())
}

fn what_is_in_the_image() -> Result<()> {
    let pod = Pod::new(|image| {
        fs::hard_link(image.join("usr/bin/other"), image.join("usr/bin/linked"))?;
        Ok(())
    })?;
    let _agent = pod.agent(
        &config(NAME)
            .and_seal("linked")
            .selector("provenance", "image")
            .value("TOKEN", "hunter2"),
    )?;
    pod.is_given("/usr/bin/target")?;
    pod.is_given("/usr/bin/linked")?;
    // by a link of anybody's, whose name is not asked for
    symlink("/usr/bin/target", pod.root.join("tmp/by"))?;
    pod.is_given("/tmp/by")
}

fn what_came_later() -> Result<()> {
    let pod = Pod::new(|_| Ok(()))?;
    let mut agent = pod.agent(&config(NAME))?;
    pod.is_given("/usr/bin/target")?;
    let why = "was made or changed after its container was";
    fs::copy(pod.root.join("usr/bin/other"), pod.root.join("tmp/target"))?;
    pod.is_refused(&mut agent, "/tmp/target", why)?;
    fs::hard_link(pod.root.join("usr/bin/other"), pod.root.join("usr/target"))?;
    pod.is_refused(&mut agent, "/usr/target", why)?;
    // the right file, and only its mode was changed
    let target = pod.root.join("usr/bin/target");
    fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    pod.is_refused(&mut agent, "/usr/bin/target", why)?;
    // another in its place
    fs::rename(pod.root.join("tmp/target"), &target)?;
    pod.is_refused(&mut agent, "/usr/bin/target", why)
}

fn links_of_the_image() -> Result<()> {
    let pod = Pod::new(|image| {
        fs::create_dir_all(image.join("etc/alternatives"))?;
        symlink("/usr/bin/other", image.join("etc/alternatives/tool"))?;
        symlink("../../etc/alternatives/tool", image.join("usr/bin/tool"))?;
        symlink("usr/bin", image.join("bin"))?;
        Ok(())
    })?;
    let both = |binary| {
        config(NAME)
            .and_seal(binary)
            .selector("provenance", "image")
            .value("TOKEN", "hunter2")
    };
    for binary in ["tool", "/bin/tool"] {
        let _agent = pod.agent(&both(binary))?;
        pod.is_given("/usr/bin/tool")?;
        pod.is_given("/bin/tool")?;
    }
    let mut agent = pod.agent(&both("tool"))?;
    let why = "etc/alternatives/tool: it was made or changed";
    // a link of somebody's
    symlink("/usr/bin/other", pod.root.join("tmp/target"))?;
    pod.is_refused(&mut agent, "/tmp/target", "the symbolic link /tmp/target")?;
    // one of the image to one of somebody's
    let link = pod.root.join("etc/alternatives/tool");
    fs::remove_file(&link)?;
    symlink("/usr/bin/other", &link)?;
    pod.is_refused(&mut agent, "/usr/bin/tool", why)?;
    drop(agent);
    let mut agent = pod.agent(&both("/bin/tool"))?;
    pod.is_refused(&mut agent, "/usr/bin/tool", why)
}

/// Who may mount makes an overlay, and what is below it looks like an image.
/// The same by somebody who needs no rights for it, before there is an agent.
fn scripts_of_the_image() -> Result<()> {
    let pod = Pod::new(|image| {
        let script = fs::read_to_string(probe::path("probe.sh")?)?;
        let first = script.lines().next().context("an empty script")?;
        ensure!(first.starts_with("#!"), "{first}");
        fs::write(image.join("usr/bin/target"), &script)?;
        fs::create_dir_all(image.join("bin"))?;
        fs::copy("/bin/busybox", image.join("bin/busybox"))?;
        for applet in run(Command::new("busybox").arg("--list"))?.lines() {
            if applet != "busybox" {
                symlink("busybox", image.join("bin").join(applet))?;
            }
        }
        Ok(())
    })?;
    let mut agent = pod.agent(&config(NAME))?;
    pod.is_given("/usr/bin/target")?;
    let why = "was made or changed after its container was";
    // its interpreter is another
    let shell = pod.root.join("bin/busybox");
    fs::set_permissions(&shell, Permissions::from_mode(0o755))?;
    pod.is_refused(&mut agent, "/usr/bin/target", why)
}

fn as_the_binding_has_it() -> Result<()> {
    let pod = Pod::new(|_| Ok(()))?;
    fs::copy(pod.root.join("usr/bin/other"), pod.root.join("tmp/target"))?;
    let sha256 = digest(&pod.root.join("tmp/target"))?;
    let unsaid = || Config::token_for(NAME).without("provenance");
    {
        let mut agent = pod.agent(&unsaid())?;
        pod.is_given("/usr/bin/target")?;
        pod.is_refused(&mut agent, "/tmp/target", "provenance: image")?;
    }
    {
        // a digest alone tells not by what name
        let mut agent = pod.agent(&unsaid().selector("sha256", sha256.clone()))?;
        pod.is_refused(&mut agent, "/tmp/target", "provenance: image")?;
    }
    let at_its_path = Config::token_for("/tmp/target")
        .without("provenance")
        .selector("sha256", sha256);
    for config in [at_its_path, Config::token_for(NAME)] {
        let _agent = pod.agent(&config)?;
        pod.is_given("/tmp/target")?;
    }
    Ok(())
}
