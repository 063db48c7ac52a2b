//! The command line of `guest`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::protocol::{Cgroups, Root};

/// What `guest --help` prints.
pub const USAGE: &str = "\
Runs a program in a QEMU guest with one of Debian's kernels, and ends with the program's exit status.

usage: guest run --kernel LINE [OPTION]... -- PROGRAM [ARG]...

  --kernel LINE          5.10, 6.1, 6.12 or 7.2, as fetched by guest/fetch; 6.12-arm64 emulates an arm64 machine,
                         6.12-rt and 6.12-generic are other flavours of the kernel than Debian's `cloud`
  --programs FOLDER      where init and PROGRAM are, if not beside `guest` itself: for another architecture
  --add HOST[:GUEST]     copy a file or folder into the guest, with the libraries its programs need
                         (GUEST defaults to HOST's own absolute path; may be repeated)
  --disk IMAGE:GUEST     mount an ext4 image there; what is written to it is thrown away (may be repeated)
  --env NAME=VALUE       set a variable for the program (may be repeated)
  --module NAME          also load a kernel module (may be repeated)
  --reach PORT           let the guest connect to this machine's 127.0.0.1:PORT, at 10.0.2.100:PORT, and nowhere else
  --cpus N               processors, 2 unless told
  --memory SIZE          such as 512M or 2G, 2048M unless told
  --timeout SECONDS      give up after so long, 300 unless told; the exit status is then 124
  --icount               count instructions instead of time: same figures on every machine, one processor
  --console FILE         keep the kernel's log in FILE
  --boot WORDS           more words for the kernel's command line, which overrule those that are there: lsm=lockdown,yama
  --root KIND            copy the first file system onto one of this kind, and go on from there: overlay, btrfs, or erofs, which is
                         read-only (the last two are made by mkfs.btrfs and mkfs.erofs of this machine)
  --cgroups VERSIONS     mount control groups of version 1, or hybrid: version 1 and the unified hierarchy beside it, as systemd does;
                         2 unless told
  --without KIND         do not mount a file system of this kind: securityfs, tracefs, debugfs (may be repeated)
  --selinux FILE         load this policy, and have it obeyed if the kernel's command line says enforcing=1

A PROGRAM without a slash that was built beside `guest` itself is added by itself.
Exit status: the program's; 128 + N when signal N ended it; 124 on a timeout; 125 when the guest failed.";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// To run a guest.
    Run(Box<Run>),
    /// To be one of a guest's connections to this port, which QEMU asks for.
    Relay(u16),
    /// To tell how it is used.
    Help,
}

/// A guest to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The kernel line.
    pub kernel: String,
    /// Where the guest's own programs are, if not beside this one.
    pub programs: Option<PathBuf>,
    /// What to copy into the guest.
    pub add: Vec<Add>,
    /// Disks beyond the empty one.
    pub disks: Vec<Disk>,
    /// Variables for the program.
    pub env: Vec<(String, String)>,
    /// Kernel modules beyond the usual ones.
    pub modules: Vec<String>,
    /// The port of this machine that the guest may connect to.
    pub reach: Option<u16>,
    /// Number of processors.
    pub cpus: u32,
    /// Memory, as QEMU writes it.
    pub memory: String,
    /// How long the guest may run.
    pub timeout: Duration,
    /// Whether virtual time counts instructions.
    pub icount: bool,
    /// Where to keep the kernel's log.
    pub console: Option<PathBuf>,
    /// More words for the kernel's command line.
    pub boot: String,
    /// What its root is.
    pub root: Root,
    /// What control groups it has.
    pub cgroups: Cgroups,
    /// Kinds of file systems that are not mounted.
    pub without: Vec<String>,
    /// A policy for `SELinux`, in the kernel's own form.
    pub selinux: Option<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// A file or folder to copy into the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Add {
    /// On this machine.
    pub host: PathBuf,
    /// In the guest; the same path when not given.
    pub guest: Option<String>,
}

/// A disk to mount in the guest.
#[derive(Debug, PartialEq, Eq)]
pub struct Disk {
    /// A file on this machine that holds an ext4 file system.
    pub image: PathBuf,
    /// Where the guest mounts it.
    pub place: String,
}

/// The command by which QEMU has a connection relayed.
pub const RELAY: &str = "relay";

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut args = args.into_iter();
    match args.next().as_deref() {
        Some("run") => {}
        Some(RELAY) => {
            let port = args.next().context("guest relay: a port is wanted")?;
            return Ok(Command::Relay(positive(RELAY, &port)?));
        }
        Some("--help" | "-h" | "help") => return Ok(Command::Help),
        Some(other) => {
            bail!("{other} is not a command; the only one is `guest run` (see guest --help)")
        }
        None => bail!("no command given; try `guest run --kernel 6.1 -- suite` (see guest --help)"),
    }
    let mut run = Run {
        kernel: String::new(),
        programs: None,
        add: Vec::new(),
        disks: Vec::new(),
        env: Vec::new(),
        modules: Vec::new(),
        reach: None,
        cpus: 2,
        memory: "2048M".to_owned(),
        timeout: Duration::from_mins(5),
        icount: false,
        console: None,
        boot: String::new(),
        root: Root::default(),
        cgroups: Cgroups::default(),
        without: Vec::new(),
        selinux: None,
        command: Vec::new(),
    };
    while let Some(option) = args.next() {
        let mut value = || {
            args.next()
                .with_context(|| format!("{option} wants a value (see guest --help)"))
        };
        match option.as_str() {
            "--kernel" => run.kernel = value()?,
            "--programs" => run.programs = Some(value()?.into()),
            "--add" => run.add.push(parse_add(&value()?)?),
            "--disk" => run.disks.push(parse_disk(&value()?)?),
            "--env" => run.env.push(parse_env(&value()?)?),
            "--module" => run.modules.push(value()?),
            "--reach" => run.reach = Some(positive(&option, &value()?)?),
            "--cpus" => run.cpus = positive(&option, &value()?)?,
            "--memory" => run.memory = value()?,
            "--timeout" => run.timeout = Duration::from_secs(positive(&option, &value()?)?),
            "--icount" => run.icount = true,
            "--console" => run.console = Some(value()?.into()),
            // (several add up)
            "--boot" => {
                run.boot.push(' ');
                run.boot += &value()?;
            }
            "--root" => run.root = parse_root(&value()?)?,
            "--cgroups" => run.cgroups = parse_cgroups(&value()?)?,
            "--without" => run.without.push(parse_without(value()?)?),
            "--selinux" => run.selinux = Some(value()?.into()),
            "--help" | "-h" => return Ok(Command::Help),
            "--" => {
                run.command = args.collect();
                break;
            }
            _ => bail!(
                "{option} is not an option of guest run; the program to run comes after -- (see guest --help)"
            ),
        }
    }
    if run.kernel.is_empty() {
        bail!("no kernel given; add --kernel 6.1 (or 5.10, 6.12, 7.2)");
    }
    if run.command.is_empty() {
        bail!("no program given; end the line with -- PROGRAM ARG...");
    }
    if run.icount {
        run.cpus = 1;
    }
    Ok(Command::Run(Box::new(run)))
}

fn positive<N: FromStr + Default + PartialEq>(option: &str, value: &str) -> Result<N> {
    match value.parse() {
        Ok(number) if number != N::default() => Ok(number),
        _ => bail!("{option} {value}: a whole number above zero, and none too great, is wanted"),
    }
}

fn parse_add(value: &str) -> Result<Add> {
    let (host, guest) = match value.split_once(':') {
        Some((host, guest)) => (host, Some(guest)),
        None => (value, None),
    };
    if host.is_empty() || guest.is_some_and(|path| !path.starts_with('/')) {
        bail!("--add {value}: HOST or HOST:GUEST is wanted, with GUEST an absolute path");
    }
    Ok(Add {
        host: host.into(),
        guest: guest.map(str::to_owned),
    })
}

fn parse_disk(value: &str) -> Result<Disk> {
    match value.split_once(':') {
        Some((image, place)) if !image.is_empty() && place.starts_with('/') => Ok(Disk {
            image: image.into(),
            place: place.to_owned(),
        }),
        _ => bail!("--disk {value}: IMAGE:GUEST is wanted, with GUEST an absolute path"),
    }
}

fn parse_root(value: &str) -> Result<Root> {
    match value {
        "overlay" => Ok(Root::Overlay),
        "btrfs" => Ok(Root::Btrfs),
        "erofs" => Ok(Root::Erofs),
        _ => bail!("--root {value}: overlay, btrfs or erofs is wanted"),
    }
}

fn parse_cgroups(value: &str) -> Result<Cgroups> {
    match value {
        "1" => Ok(Cgroups::Version1),
        "hybrid" => Ok(Cgroups::Hybrid),
        "2" => Ok(Cgroups::Version2),
        _ => bail!("--cgroups {value}: 1, hybrid or 2 is wanted"),
    }
}

fn parse_without(value: String) -> Result<String> {
    // (nothing works without the others)
    if !["securityfs", "tracefs", "debugfs"].contains(&value.as_str()) {
        bail!("--without {value}: securityfs, tracefs or debugfs is wanted");
    }
    Ok(value)
}

fn parse_env(value: &str) -> Result<(String, String)> {
    match value.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("--env {value}: NAME=VALUE is wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Add, Cgroups, Command, Disk, Root, Run, parse};

    fn run(line: &str) -> Run {
        match parse(line.split(' ').map(str::to_owned)).unwrap() {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn error(line: &str) -> String {
        parse(line.split(' ').map(str::to_owned))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn everything_after_the_dashes_is_the_programs() {
        let run = run("run --kernel 6.1 --add /a --add b:/c -- prog --kernel -- x");
        assert_eq!(run.command, ["prog", "--kernel", "--", "x"]);
        let added = [
            Add {
                host: "/a".into(),
                guest: None,
            },
            Add {
                host: "b".into(),
                guest: Some("/c".into()),
            },
        ];
        assert_eq!(run.add, added);
        assert_eq!(
            (run.cpus, run.memory.as_str(), run.timeout.as_secs()),
            (2, "2048M", 300)
        );
    }

    #[test]
    fn a_disk_has_a_place() {
        let wanted = Disk {
            image: "i".into(),
            place: "/p".to_owned(),
        };
        assert_eq!(run("run --kernel 6.1 --disk i:/p -- p").disks, [wanted]);
        assert!(error("run --kernel 6.1 --disk i -- p").contains("IMAGE:GUEST"));
        assert!(error("run --kernel 6.1 --disk i:p -- p").contains("IMAGE:GUEST"));
    }

    #[test]
    fn counting_instructions_means_one_processor() {
        assert_eq!(run("run --icount --cpus 4 --kernel 6.1 -- p").cpus, 1);
    }

    #[test]
    fn errors_name_the_fix() {
        assert!(error("run -- p").contains("--kernel 6.1"));
        assert!(error("run --kernel 6.1").contains("-- PROGRAM"));
        assert!(error("run --kernel 6.1 --cpus 0 -- p").contains("above zero"));
        assert!(error("run --kernel 6.1 prog").contains("after --"));
        assert!(error("run --add x:y --kernel 6.1 -- p").contains("absolute"));
        assert!(error("run --kernel 6.1 --env A -- p").contains("NAME=VALUE"));
        assert!(error("run --kernel 6.1 --reach 65536 -- p").contains("too great"));
        assert!(error("boot").contains("guest run"));
    }

    #[test]
    fn a_ground_is_told_by_its_words() {
        let run = run(
            "run --kernel 6.1 --boot a --boot b=1 --root erofs --cgroups hybrid --without tracefs --without debugfs -- p",
        );
        assert_eq!(run.boot, " a b=1");
        assert_eq!((run.root, run.cgroups), (Root::Erofs, Cgroups::Hybrid));
        assert_eq!(run.without, ["tracefs", "debugfs"]);
        assert!(error("run --kernel 6.1 --root zfs -- p").contains("btrfs"));
        assert!(error("run --kernel 6.1 --cgroups 3 -- p").contains("hybrid"));
        assert!(error("run --kernel 6.1 --without proc -- p").contains("securityfs"));
    }

    #[test]
    fn help_is_no_error() {
        for line in ["--help", "run -h"] {
            let command = parse(line.split(' ').map(str::to_owned)).unwrap();
            assert_eq!(command, Command::Help);
        }
    }

    #[test]
    fn a_guest_may_reach_one_port() {
        assert_eq!(run("run --kernel 6.1 --reach 6443 -- p").reach, Some(6443));
        let relay = parse(["relay", "6443"].map(str::to_owned)).unwrap();
        assert_eq!(relay, Command::Relay(6443));
    }
}
