//! `image+libraries`: code that a program maps comes from its image, too.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, ensure_both, report};
use kernelseal_integration::process::spawn;
use serde_json::Value;

use super::{NAME, Pod, SOON};

/// Puts a file of the machine into an image, at the same place. (Where `/lib` is a link, the image has a folder.)
fn put(image: &Path, path: &Path) -> Result<()> {
    let to = image.join(path.strip_prefix("/")?);
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(path, to).with_context(|| path.display().to_string())?;
    Ok(())
}

/// The first of these that is there.
fn first_of(paths: &[&'static str]) -> Result<&'static Path> {
    let mut paths = paths.iter().copied().map(Path::new);
    let found = paths.find(|path| path.exists());
    found.context("no such library on this machine")
}

fn loader() -> Result<&'static Path> {
    first_of(&["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"])
}

pub(super) fn libraries_of_the_image() -> Result<()> {
    let pod = Pod::new(|image| {
        fs::copy(probe::path("probe-dynamic")?, image.join("usr/bin/target"))?;
        put(image, loader()?)?;
        put(
            image,
            first_of(&[
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib/aarch64-linux-gnu/libc.so.6",
            ])?,
        )
    })?;
    // what the loader brings along into every program, and from where anybody may write
    let library = first_of(&[
        "/lib/x86_64-linux-gnu/libz.so.1",
        "/lib/aarch64-linux-gnu/libz.so.1",
    ])?;
    fs::copy(library, pod.root.join("tmp/lib.so"))?;
    fs::create_dir_all(pod.root.join("etc"))?;
    let preload = pod.root.join("etc/ld.so.preload");
    let is_told = |is_kept: bool| -> Result<()> {
        let provenance = if is_kept { "image+libraries" } else { "image" };
        let mut agent = pod.agent(&Config::token_for(NAME).selector("provenance", provenance))?;
        pod.is_given("/usr/bin/target")?;
        let said = pod.scratch.join(format!("said-{is_kept}"));
        fs::write(&preload, "/tmp/lib.so\n")?;
        let mut command = pod.start("/usr/bin/target", &[])?;
        let (_probe, found) = report(command.stderr(fs::File::create(&said)?))?;
        fs::remove_file(&preload)?;
        ensure_both(&found, "hunter2")?;
        let said = fs::read_to_string(said)?;
        ensure!(said.contains("cannot be preloaded") == is_kept, "{said}");
        let events = agent.events(Duration::from_millis(500))?;
        let is_mapping = |event: &&Value| event["access"] == "executable_map";
        let blocked = events.iter().filter(is_mapping).count();
        ensure!((blocked > 0) == is_kept, "{events:?}");
        if is_kept {
            // what it executes is held to the same
            let copy = pod.root.join("tmp/copy");
            fs::copy(pod.root.join("usr/bin/other"), &copy)?;
            let mut command = pod.start("/usr/bin/target", &[])?;
            let mut probe = spawn(command.args(["--exec", "/tmp/copy"]))?;
            probe.line(SOON)?;
            ensure!(probe.line(SOON).is_err(), "it executed a copy");
            let mut command = pod.start("/usr/bin/target", &[])?;
            let mut probe = spawn(command.args(["--exec", "/usr/bin/other"]))?;
            probe.line(SOON)?;
            probe.line(SOON)?;
            // its loader is another
            let loader = pod.root.join(loader()?.strip_prefix("/")?);
            fs::set_permissions(loader, Permissions::from_mode(0o755))?;
            pod.is_refused(&mut agent, "/usr/bin/target", "it was made or changed")?;
        }
        Ok(())
    };
    is_told(false)?;
    is_told(true)
}
