//! What host and guest say to each other: the job given to the guest, and the reports it sends back.
//!
//! The guest has three serial ports: the first is the kernel's console, the second carries the
//! command's output and nothing else, the third one report per line. The job is a file in the initramfs.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Where the initramfs holds the [`Job`].
pub const JOB_FILE: &str = "/etc/kernelseal-guest.json";
/// Where the initramfs holds kernel modules.
pub const MODULES_DIR: &str = "/usr/lib/kernelseal-guest/modules";
/// Where the initramfs holds a policy for `SELinux`, if it has one.
pub const SELINUX_POLICY: &str = "/etc/selinux/policy";
/// The guest's port for the command's output. (An arm64 machine's console is of another kind, and not counted.)
pub const OUTPUT_PORT: &str = if cfg!(target_arch = "aarch64") {
    "/dev/ttyS0"
} else {
    "/dev/ttyS1"
};
/// The guest's port for [`Report`]s.
pub const REPORT_PORT: &str = if cfg!(target_arch = "aarch64") {
    "/dev/ttyS1"
} else {
    "/dev/ttyS2"
};

/// Where a guest finds the one port of the host's loopback that it may reach, in the network that QEMU makes for it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// Its own address there, and how much of it is the network's.
pub const ADDRESS: &str = "10.0.2.15/24";

/// What the guest's init is to do.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables set for the program, beside `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// File names under [`MODULES_DIR`], in the order in which to load them.
    pub modules: Vec<String>,
    /// Where the disks are to be mounted, in the order in which the machine has them.
    pub disks: Vec<String>,
    /// Whether it has a network with [`HOST`] in it.
    pub has_network: bool,
    /// What its root is.
    pub root: Root,
    /// What control groups are mounted.
    pub cgroups: Cgroups,
    /// Kinds of file systems that are not.
    pub without: Vec<String>,
    /// Whether a policy for `SELinux` lies at [`SELINUX_POLICY`].
    pub has_selinux_policy: bool,
}

/// Names the variable that tells the program in the guest what machine was asked for ([`Asked`], as JSON).
pub const ASKED: &str = "KERNELSEAL_GUEST";

/// What a guest was asked to be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The name of its kernel, such as `6.12-rt`.
    pub kernel: String,
    /// More words of the kernel's command line.
    pub boot: String,
    /// Number of processors.
    pub cpus: u32,
    /// Memory, as QEMU writes it.
    pub memory: String,
    /// What its root is.
    pub root: Root,
    /// What control groups are mounted.
    pub cgroups: Cgroups,
    /// Kinds of file systems that are not.
    pub without: Vec<String>,
}

/// What a guest has as its root.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// What the kernel begins with.
    #[default]
    Initramfs,
    /// An overlay with that below it.
    Overlay,
    /// A copy of it on btrfs.
    Btrfs,
    /// A copy of it that nobody can write.
    Erofs,
}

impl Root {
    /// The program that makes such a file system, if one does.
    #[must_use]
    pub fn maker(self) -> Option<&'static str> {
        match self {
            Self::Initramfs | Self::Overlay => None,
            Self::Btrfs => Some("mkfs.btrfs"),
            Self::Erofs => Some("mkfs.erofs"),
        }
    }

    /// The modules that its kernel needs for it.
    #[must_use]
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Initramfs | Self::Overlay => &[],
            Self::Btrfs => &["loop", "btrfs"],
            Self::Erofs => &["loop", "erofs"],
        }
    }
}

/// What control groups a guest mounts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    /// The unified hierarchy.
    #[default]
    Version2,
    /// A hierarchy for each controller.
    Version1,
    /// The same, and the unified one beside them.
    Hybrid,
}

/// One line on the report port.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// User space runs: from here on a silent death is the fault of what is tested.
    Started,
    /// Something in the guest is not as asked, but the command can run.
    Warning(String),
    /// The guest could not run the command at all.
    Failed(String),
    /// The command ended with this status.
    Exited(i32),
    /// The command was ended by this signal.
    Killed(i32),
}

impl Report {
    /// Reads the reports sent so far; a line that is still being written is left out.
    #[must_use]
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| serde_json::from_str(line.trim()).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn reports_survive_the_port() {
        let sent = [
            Report::Started,
            Report::Warning("no veth".into()),
            Report::Exited(3),
        ];
        let mut text = String::new();
        for report in &sent {
            text += &serde_json::to_string(report).unwrap();
            text += "\r\n";
        }
        assert_eq!(Report::parse_all(&text), sent);
    }

    #[test]
    fn half_a_line_is_no_report() {
        assert_eq!(
            Report::parse_all("\"started\"\n{\"exited\":1}"),
            [Report::Started]
        );
    }
}
