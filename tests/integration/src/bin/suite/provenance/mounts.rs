//! What somebody mounts in a container, or makes its root, is not of its image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernelseal_integration::container::Deed;
use kernelseal_integration::probe::{ensure_both, report};
use kernelseal_integration::process::{spawn, until};

use super::{NAME, OVERLAYS_OF_USERS, Pod, SOON, config};
use crate::machine::kernel_version;

pub(super) fn mounts_in_a_container() -> Result<()> {
    let pod = Pod::new(|_| Ok(()))?;
    let mut agent = pod.agent(&config(NAME))?;
    let (tmp, other) = (Path::new("/tmp"), Path::new("/usr/bin/other"));
    let elsewhere = "lies on another mount than its container's root";
    let copied = [
        Deed::Mount("tmpfs", tmp, ""),
        Deed::Copy(other, Path::new("/tmp/target")),
    ];
    pod.is_refused_after(&mut agent, &copied, "/tmp/target", elsewhere)?;
    let bound = [Deed::Bind(other, Path::new("/usr/bin/target"))];
    pod.is_refused_after(&mut agent, &bound, "/usr/bin/target", elsewhere)?;
    let bound = [Deed::Bind(Path::new("/usr"), tmp)];
    pod.is_refused_after(&mut agent, &bound, "/tmp/bin/target", elsewhere)?;
    // the root of another container, of which the name is known
    let proc = Path::new("/proc");
    let mounted = [Deed::Mount("proc", proc, "")];
    let mut stays = pod.other.command_after(&pod.place, &mounted, "/target")?;
    stays.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
    let (_stays, found) = report(&mut stays)?;
    ensure_both(&found, "hunter2")?;
    // (as the pod has it)
    let number = &found["pid"];
    let its_root = PathBuf::from(format!("/proc/{number}/root"));
    let deeds = [Deed::Mount("proc", proc, ""), Deed::Chroot(&its_root)];
    pod.is_refused_after(&mut agent, &deeds, "/target", elsewhere)?;
    let program = format!("/proc/{number}/root/target");
    pod.is_refused_after(&mut agent, &mounted, &program, elsewhere)
}

pub(super) fn an_image_of_ones_own() -> Result<()> {
    let pod = Pod::new(|_| Ok(()))?;
    let mut agent = pod.agent(&config(NAME))?;
    let (root, layers) = pod.make_image()?;
    let deeds = [Deed::Mount("overlay", &root, &layers), Deed::Pivot(&root)];
    let why = "somebody mounted in the pod";
    pod.is_refused_after(&mut agent, &deeds, "/target", why)
}

pub(super) fn an_image_of_a_user_namespace() -> Result<()> {
    if kernel_version()? < OVERLAYS_OF_USERS {
        return Ok(());
    }
    let pod = Pod::new(|_| Ok(()))?;
    let (root, layers) = pod.make_image()?;
    let (is_mounted, may_go) = (Path::new("/tmp/is-mounted"), Path::new("/tmp/go"));
    let deeds = [
        Deed::UserNamespace,
        Deed::Mount("overlay", &root, &layers),
        Deed::Copy(Path::new("/termination-log"), is_mounted),
        Deed::Await(may_go),
        Deed::Pivot(&root),
    ];
    let mut probe = spawn(&mut pod.start("/target", &deeds)?)?;
    until("it is mounted", SOON, || {
        pod.root.join("tmp/is-mounted").exists()
    })?;
    let mut agent = pod.agent(&config(NAME))?;
    fs::write(pod.root.join("tmp/go"), "")?;
    ensure!(probe.line(SOON).is_err(), "it started");
    let refused = agent.wait_for(|event| event["type"] == "REFUSED", SOON)?;
    let reason = refused["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("not the container's runtime"), "{reason}");
    Ok(())
}
