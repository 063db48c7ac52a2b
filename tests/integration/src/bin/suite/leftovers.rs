//! What a pod leaves behind when it is killed with its agent: nothing that the next pod could stumble over. The kernel
//! gives the numbers of namespaces and of file systems to the next that asks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::pod::Place;
use kernelseal_integration::process::run;
use kernelseal_integration::registry::Registry;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::scopes::{Pod, start_target};

/// For the kernel to take down a pod that was killed.
const TAKEN_DOWN: Duration = Duration::from_secs(1);
/// How often to look whether it is.
const PATIENCE: u32 = 15;
/// How many new ones may get other numbers first.
const TRIES: usize = 60;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "leftovers::a_reused_namespace_number_is_nobodys",
            a_reused_namespace_number_is_nobodys,
        )
        .test(
            "leftovers::a_reused_device_number_is_nobodys",
            a_reused_device_number_is_nobodys,
        )
}

/// The number by which the kernel side would know the place.
fn namespace_number(place: &Place) -> Result<u64> {
    let text = run(place
        .command("stat")?
        .args(["-L", "-c", "%i", "/proc/self/ns/pid"]))?;
    Ok(text.trim().parse()?)
}

fn a_reused_namespace_number_is_nobodys() -> Result<()> {
    start_clean()?;
    let place = Place::pod()?;
    let number = namespace_number(&place)?;
    let mut pod = Pod::start(place, "killed")?;
    let target = pod.seals()?;
    pod.kill()?;
    drop(target);
    thread::sleep(TAKEN_DOWN);

    let mut others = Vec::new();
    let again = loop {
        let place = Place::pod()?;
        if namespace_number(&place)? == number {
            break place;
        }
        others.push(place);
        ensure!(others.len() < TRIES, "the kernel does not reuse {number}");
    };
    let (_first, report) =
        start_target(&again).context("a program in a pod without an agent does not start")?;
    ensure!(
        report["env"]["TOKEN"].is_null(),
        "a dead agent's secret: {report}"
    );
    let mut node = Pod::start(Place::Machine, "node")?;
    let (_second, report) = start_target(&again)?;
    ensure!(
        report["env"]["TOKEN"] == "value-of-node",
        "the node's agent did not seal: {report}"
    );
    node.seals()?;
    Ok(())
}

/// An ordinary tmpfs that gets the number of a secret directory that is gone.
fn a_reused_device_number_is_nobodys() -> Result<()> {
    start_clean()?;
    let mut pod = Pod::start(Place::pod()?, "killed")?;
    let target = pod.seals()?;
    let device = secret_directory_device(target.pid())?;
    pod.kill()?;
    drop(target);

    let folder = std::env::temp_dir().join("kernelseal-leftovers");
    fs::create_dir_all(&folder)?;
    for _ in 0..PATIENCE {
        thread::sleep(TAKEN_DOWN);
        if let Some(found) = use_device(&folder, device)? {
            return found.context("a tmpfs that is nobody's secret directory cannot be used");
        }
    }
    bail!("the kernel does not reuse device {device}")
}

/// Mounts file systems until one has the device number, and uses that one.
fn use_device(folder: &Path, device: u64) -> Result<Option<Result<()>>> {
    let mut mounts = 0;
    let mut found = None;
    while mounts < TRIES && found.is_none() {
        let plain = MsFlags::empty();
        mount(Some("tmpfs"), folder, Some("tmpfs"), plain, None::<&str>)?;
        mounts += 1;
        if fs::metadata(folder)?.dev() == device {
            found = Some(use_it(folder));
        }
    }
    for _ in 0..mounts {
        umount2(folder, MntFlags::MNT_DETACH)?;
    }
    Ok(found)
}

/// Other tests kill agents too, and what those leave is not what is looked at here.
fn start_clean() -> Result<()> {
    run(&mut Agent::command(&["cleanup", "--force"])).map(drop)
}

fn use_it(folder: &Path) -> Result<()> {
    let file = folder.join("ordinary");
    fs::write(&file, "data")?;
    ensure!(fs::read(&file)? == b"data");
    ensure!(fs::read_dir(folder)?.count() == 1);
    Ok(())
}

/// The device of the tmpfs that a target in a pod was given; `wrapper` is the process that accompanies it.
fn secret_directory_device(wrapper: u32) -> Result<u64> {
    let pid = kernelseal_integration::namespace::process_one(wrapper)?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    // The last one: a pod's mounts are copies of the machine's, where other tests may have left theirs.
    let line = mounts
        .lines()
        .rfind(|line| line.contains("/run/kernelseal/secrets/"))
        .context("the target has no secret directory")?;
    let numbers = line.split_whitespace().nth(2).context("a short line")?;
    let (major, minor) = numbers.split_once(':').context("no device")?;
    Ok(libc::makedev(major.parse()?, minor.parse()?))
}
