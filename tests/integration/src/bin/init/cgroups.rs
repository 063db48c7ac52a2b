//! Mounts control groups, as machines of today and of yesterday have them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kernelseal_integration::guest::protocol::Cgroups;
use nix::mount::{MsFlags, mount};

const PLACE: &str = "/sys/fs/cgroup";
/// Where systemd has the unified hierarchy on a hybrid machine.
const BESIDE: &str = "/sys/fs/cgroup/unified";
/// The hierarchy without a controller that systemd keeps its units in.
const SYSTEMD: &str = "systemd";

/// Mounts them below [`PLACE`].
pub fn mount_all(which: Cgroups) -> Result<()> {
    if which == Cgroups::Version2 {
        mount_at("cgroup2", PLACE, "")?;
        return prepare_unified();
    }
    mount_at("tmpfs", PLACE, "mode=0755")?;
    mount_hierarchy(SYSTEMD, "none,name=systemd")?;
    for controller in controllers()? {
        mount_hierarchy(&controller, &controller)?;
    }
    if which == Cgroups::Hybrid {
        fs::create_dir(BESIDE)?;
        mount_at("cgroup2", BESIDE, "")?;
    }
    Ok(())
}

fn mount_at(kind: &str, place: &str, options: &str) -> Result<()> {
    mount(
        Some(kind),
        place,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .with_context(|| format!("cannot mount {kind} ({options}) on {place}"))
}

fn mount_hierarchy(name: &str, options: &str) -> Result<()> {
    let place = format!("{PLACE}/{name}");
    fs::create_dir(&place)?;
    mount_at("cgroup", &place, options)
}

/// Those of version 1 that this kernel has switched on: lines of name, hierarchy, number of groups, and whether it is.
fn controllers() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/cgroups")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(fields
        .filter(|fields| fields.get(3) == Some(&"1"))
        .map(|fields| fields[0].to_owned())
        .collect())
}

/// Leaves the root group, so that it may have children with controllers.
fn prepare_unified() -> Result<()> {
    let place = Path::new(PLACE);
    fs::create_dir_all(place.join("init.scope"))?;
    fs::write(place.join("init.scope/cgroup.procs"), "1")?;
    let controllers = fs::read_to_string(place.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        fs::write(
            place.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .with_context(|| format!("cannot enable {controller}"))?;
    }
    Ok(())
}
