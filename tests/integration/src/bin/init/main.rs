//! The guest's first process: makes the machine usable, runs the one command, reports how it ended.

mod cgroups;
mod root;
mod selinux;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kernelseal_integration::guest::protocol::{
    ADDRESS, JOB_FILE, Job, MODULES_DIR, OUTPUT_PORT, REPORT_PORT, Report,
};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::termios::{self, SetArg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The devices of the disks, in their order.
const DISKS: [&str; 4] = ["/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"];

/// File system type, place, options. In this order: some places lie within others. (Control groups are `cgroups`' matter.)
const MOUNTS: [(&str, &str, &str); 11] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("devpts", "/dev/pts", "ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
];

fn main() {
    if std::process::id() != 1 {
        eprintln!("init: this is the first process of a guest; run it with `guest run`");
        std::process::exit(1);
    }
    let job = read_job();
    let without = job.as_ref().map(|job| job.without.as_slice());
    let mut warnings = mount_all(without.unwrap_or_default());
    match Ports::open() {
        Ok(mut ports) => {
            ports.report(&Report::Started);
            let report = job
                .and_then(|job| run(&job, &mut ports, &mut warnings))
                .unwrap_or_else(|error| Report::Failed(format!("{error:#}")));
            ports.finish(&report);
        }
        Err(error) => eprintln!("init: {error:#}"),
    }
    // Returns only when it failed, and then the kernel panics as this process ends: the host sees that, too.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn read_job() -> Result<Job> {
    let text = fs::read(JOB_FILE).with_context(|| format!("cannot read {JOB_FILE}"))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {JOB_FILE}"))
}

/// Prepares what the job asks for and runs its command.
fn run(job: &Job, ports: &mut Ports, warnings: &mut Vec<String>) -> Result<Report> {
    let mut attempt = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            warnings.push(format!("{what}: {error:#}"));
        }
    };
    for module in &job.modules {
        attempt(
            &format!("cannot load {module}"),
            load_module(&Path::new(MODULES_DIR).join(module)),
        );
    }
    attempt("cannot bring up the loopback", ip("link set lo up"));
    if job.has_network {
        let network =
            ip("link set eth0 up").and_then(|()| ip(&format!("address add {ADDRESS} dev eth0")));
        attempt("cannot bring up the network", network);
    }
    for (place, device) in job.disks.iter().zip(DISKS) {
        attempt(&format!("cannot mount {place}"), mount_disk(device, place));
    }
    attempt("cannot prepare cgroups", cgroups::mount_all(job.cgroups));
    attempt("cannot raise limits", raise_limits());
    attempt(
        "cannot set the host name",
        nix::unistd::sethostname("guest").map_err(Into::into),
    );
    for warning in warnings.drain(..) {
        ports.report(&Report::Warning(warning));
    }
    // What a ground is named for is no matter of a warning: without it another ground would be tested.
    root::change(job.root, &job.disks).context("cannot change the root")?;
    share_mounts()?;
    if job.has_selinux_policy {
        selinux::load().context("cannot load SELinux' policy")?;
    }
    run_command(job, &ports.output)
}

/// Mounts what every Linux machine has, but file systems of these kinds; gives the complaints.
fn mount_all(without: &[String]) -> Vec<String> {
    let mut complaints = Vec::new();
    // (the kernel makes its first file system one that everybody writes)
    if let Err(error) = fs::set_permissions("/", Permissions::from_mode(0o755)) {
        complaints.push(format!("cannot set the root's mode: {error}"));
    }
    let wanted = |kind: &str| !without.iter().any(|it| it == kind);
    for (kind, place, options) in MOUNTS.into_iter().filter(|(kind, ..)| wanted(kind)) {
        let result = fs::create_dir_all(place)
            .map_err(anyhow::Error::from)
            .and_then(|()| {
                Ok(mount(
                    Some(kind),
                    place,
                    Some(kind),
                    MsFlags::empty(),
                    Some(options),
                )?)
            });
        if let Err(error) = result {
            complaints.push(format!("cannot mount {kind} on {place}: {error}"));
        }
    }
    complaints
}

/// As on machines with systemd, where containers' mounts come and go.
fn share_mounts() -> Result<()> {
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).context("cannot share mounts")
}

fn load_module(path: &Path) -> Result<()> {
    match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("/bin/busybox")
        .arg("ip")
        .args(arguments.split(' '))
        .status()?;
    if !status.success() {
        bail!("ip {arguments}: {status}");
    }
    Ok(())
}

fn mount_disk(device: &str, place: &str) -> Result<()> {
    let begin = Instant::now();
    while !Path::new(device).exists() {
        if begin.elapsed() > Duration::from_secs(3) {
            bail!("{device} did not appear; was virtio_blk loaded?");
        }
        thread::sleep(Duration::from_millis(5));
    }
    mount(
        Some(device),
        place,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        None::<&str>,
    )?;
    Ok(())
}

/// Kernel 5.10 charges BPF maps against the limit of locked memory.
fn raise_limits() -> Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX)?;
    setrlimit(Resource::RLIMIT_NOFILE, 65_536, 1 << 20)?;
    setrlimit(Resource::RLIMIT_CORE, 0, u64::MAX)?;
    Ok(())
}

/// Runs the command and collects all who die meanwhile, as the first process must.
fn run_command(job: &Job, output: &File) -> Result<Report> {
    let (program, arguments) = job
        .command
        .split_first()
        .context("the job names no program")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/root")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {program} in the guest; was it given with --add?"))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                return Ok(Report::Exited(status));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(Report::Killed(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

/// The two serial ports that lead to the host.
struct Ports {
    output: File,
    reports: File,
}

impl Ports {
    fn open() -> Result<Self> {
        Ok(Self {
            output: open_port(OUTPUT_PORT)?,
            reports: open_port(REPORT_PORT)?,
        })
    }

    /// Sends a report. A port that does not take it leaves nobody to tell: the host sees the guest end without one.
    fn report(&mut self, report: &Report) {
        if let Ok(mut line) = serde_json::to_vec(report) {
            line.push(b'\n');
            let _ = self.reports.write_all(&line);
        }
    }

    /// Sends the last report, after everything else has left.
    fn finish(mut self, report: &Report) {
        let _ = termios::tcdrain(&self.output);
        self.report(report);
        let _ = termios::tcdrain(&self.reports);
    }
}

/// Opens a serial port for bytes as they are.
fn open_port(path: &str) -> Result<File> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(path)
        .with_context(|| format!("cannot open {path}; was this guest started by `guest run`?"))?;
    let mut settings = termios::tcgetattr(&port)?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(&port, SetArg::TCSANOW, &settings)?;
    Ok(port)
}
