//! Has the kernel obey a policy for `SELinux`, as a machine's first process does.

use std::fs;

use anyhow::{Context, Result};
use kernelseal_integration::guest::protocol::SELINUX_POLICY;
use nix::mount::{MsFlags, mount};
use rustix::fs::{XattrFlags, setxattr};

const PLACE: &str = "/sys/fs/selinux";
/// The program that has a domain of its own, and what brings it there.
const AGENT: &str = "/usr/bin/kernelseal";
const LABEL: &[u8] = b"u:object_r:agent_exec_t:s0\0";

/// Loads it. Whether it is obeyed, the kernel's command line says.
pub fn load() -> Result<()> {
    let kind = Some("selinuxfs");
    mount(kind, PLACE, kind, MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {PLACE}; is selinux in lsm=?"))?;
    let policy = fs::read(SELINUX_POLICY)?;
    fs::write(format!("{PLACE}/load"), policy).context("the kernel refuses it")?;
    setxattr(AGENT, "security.selinux", LABEL, XattrFlags::empty())
        .with_context(|| format!("cannot label {AGENT}"))
}
