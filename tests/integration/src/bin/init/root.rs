//! Goes on from a root of another kind than the one the kernel begins with.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use kernelseal_integration::guest::protocol::Root;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

/// Where the new root is made.
const NEW: &str = "/.root";
/// Where the files of the first file system are, without what is mounted among them.
const OLD: &str = "/.old";
/// What is written above them, if an overlay is.
const LAYERS: &str = "/.layers";
/// The new root's image, on the empty disk.
const IMAGE: &str = "/ext4/.root";
/// Its size, of which little is used.
const IMAGE_SIZE: u64 = 1 << 30;
/// What goes along.
const MOVED: [&str; 5] = ["/proc", "/sys", "/dev", "/tmp", "/run"];
/// Where machines whose root nobody can write have file systems that can be written.
const WRITTEN: [&str; 5] = ["/var", "/root", "/home", "/mnt", "/opt"];
/// Files that tests mount upon.
const PLACES: [&str; 1] = ["/termination-log"];

/// Makes the root, and goes there with what is mounted. `disks` are where disks are.
pub fn change(to: Root, disks: &[String]) -> Result<()> {
    if to == Root::Initramfs {
        return Ok(());
    }
    for folder in [NEW, OLD, LAYERS].iter().chain(&WRITTEN) {
        fs::create_dir_all(folder)?;
    }
    for file in PLACES {
        File::create(file)?;
    }
    mount(Some("/"), OLD, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("bind the root")?;
    match to {
        Root::Initramfs => {}
        Root::Overlay => overlay()?,
        Root::Btrfs => {
            File::create(IMAGE)?.set_len(IMAGE_SIZE)?;
            make(to, &["--quiet", IMAGE])?;
            busybox(&["mount", "-t", "btrfs", "-o", "loop", IMAGE, NEW])?;
            busybox(&["cp", "-a", &format!("{OLD}/."), NEW])?;
        }
        Root::Erofs => {
            make(to, &[IMAGE, OLD])?;
            busybox(&["mount", "-t", "erofs", "-o", "loop,ro", IMAGE, NEW])?;
            for place in WRITTEN {
                tmpfs(&format!("{NEW}{place}"))?;
            }
            for folder in ["log", "tmp", "lib"] {
                fs::create_dir(format!("{NEW}/var/{folder}"))?;
            }
        }
    }
    let moved = MOVED.into_iter().chain(disks.iter().map(String::as_str));
    for place in moved {
        let to = format!("{NEW}{place}");
        move_mount(place, &to).with_context(|| format!("cannot move {place}"))?;
    }
    chdir(NEW)?;
    move_mount(".", "/").context("cannot move the root")?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn overlay() -> Result<()> {
    tmpfs(LAYERS)?;
    for folder in ["upper", "work"] {
        fs::create_dir(Path::new(LAYERS).join(folder))?;
    }
    let layers = format!("lowerdir={OLD},upperdir={LAYERS}/upper,workdir={LAYERS}/work");
    let kind = Some("overlay");
    Ok(mount(
        kind,
        NEW,
        kind,
        MsFlags::empty(),
        Some(layers.as_str()),
    )?)
}

fn tmpfs(place: &str) -> Result<()> {
    let kind = Some("tmpfs");
    mount(kind, place, kind, MsFlags::empty(), Some("mode=0755"))
        .with_context(|| format!("cannot mount a tmpfs on {place}"))
}

fn move_mount(from: &str, to: &str) -> Result<()> {
    Ok(mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )?)
}

/// Makes a file system of that kind. (There is no `PATH` yet.)
fn make(kind: Root, arguments: &[&str]) -> Result<()> {
    let maker = kind.maker().context("nothing makes it")?;
    run(&format!("/usr/sbin/{maker}"), arguments)
}

fn busybox(arguments: &[&str]) -> Result<()> {
    run("/bin/busybox", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {said}", arguments.join(" "));
    }
    Ok(())
}
