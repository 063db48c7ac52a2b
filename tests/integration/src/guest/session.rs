//! Runs one command in one guest: boot, stream, verdict.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdout};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::args::Run;
use super::cache::{Cache, Kernel};
use super::image;
use super::protocol::Report;
use super::qemu::{Files, Qemu};

/// The exit status that says the time was up.
pub const TIMED_OUT: u8 = 124;
/// The exit status that says the guest itself failed.
pub const GUEST_FAILED: u8 = 125;

/// User space comes up in 3 to 5 s; a machine that is busy may need several times that.
const BOOT_LIMIT: Duration = Duration::from_mins(2);
/// How kernels announce that they are broken.
const CRIES: [&str; 4] = [
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "general protection fault",
];
const LINES_SHOWN: usize = 40;
const POLL: Duration = Duration::from_millis(10);

/// How a boot ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The command's exit status, as a shell would give it.
    Status(u8),
    TimedOut,
    /// The guest ended before user space.
    NeverStarted,
    /// The guest ended without telling how the command did.
    Died,
    /// The guest's init could not run the command.
    Failed(String),
}

/// Boots a guest and runs the command in it; gives the exit status for this process.
pub fn run(run: &Run) -> Result<u8> {
    let begin = Instant::now();
    let cache = Cache::open()?;
    let kernel = cache.kernel(&run.kernel)?;
    let folder = Folder::create(run)?;
    let initramfs = folder.path.join("initramfs");
    let file = File::create(&initramfs)
        .with_context(|| format!("cannot create {}", initramfs.display()))?;
    image::write(
        BufWriter::with_capacity(1 << 20, file),
        run,
        &cache,
        &kernel,
    )?;

    let mut end = boot(run, &cache, &kernel, &folder, begin)?;
    if end == End::NeverStarted && begin.elapsed() < run.timeout {
        eprintln!(
            "guest: kernel {} ended before user space; booting once more. Its log was:",
            kernel.name
        );
        folder.show_console();
        end = boot(run, &cache, &kernel, &folder, begin)?;
    }
    let status = folder.explain(&end, run);
    eprintln!(
        "guest: kernel {}: exit status {status} after {:.1} s",
        kernel.name,
        begin.elapsed().as_secs_f32()
    );
    folder.close(status != 0);
    Ok(status)
}

/// Boots once and waits for the end.
fn boot(run: &Run, cache: &Cache, kernel: &Kernel, folder: &Folder, begin: Instant) -> Result<End> {
    let files = Files {
        initramfs: &folder.path.join("initramfs"),
        console: &folder.console,
        reports: &folder.path.join("reports"),
        complaints: &folder.path.join("qemu"),
    };
    let _ = fs::remove_file(files.reports);
    let (qemu, output) = Qemu::start(run, cache, kernel, files)?;
    let stream = thread::spawn(move || forward(output));
    let end = watch(qemu, run, files, begin);
    // QEMU is gone by now, so the stream has an end.
    match stream.join() {
        Ok(result) => result.context("cannot pass on the guest's output")?,
        Err(_) => bail!("passing on the guest's output panicked"),
    }
    end
}

/// Copies the guest's output as it comes.
fn forward(mut from: ChildStdout) -> io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut out = io::stdout().lock();
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}

/// Waits until the guest reports an end, dies, or the time is up. QEMU ends with this function.
fn watch(mut qemu: Qemu, run: &Run, files: Files<'_>, begin: Instant) -> Result<End> {
    let boot_begin = Instant::now();
    let mut warned = 0;
    loop {
        let ended = qemu.ended()?.is_some();
        let reports = Report::parse_all(&read_if_there(files.reports)?);
        let started = reports.contains(&Report::Started);
        if started {
            // QEMU holds what it needs: were this process killed now, nothing large would stay behind.
            let _ = fs::remove_file(files.initramfs);
        }
        for report in reports.iter().skip(warned) {
            if let Report::Warning(text) = report {
                eprintln!("guest: warning: {text}");
            }
        }
        warned = reports.len();
        // The guest reports an end only when all output has left it.
        if let Some(end) = reports.into_iter().find_map(end_of) {
            return Ok(end);
        }
        if ended {
            return Ok(if started {
                End::Died
            } else {
                End::NeverStarted
            });
        }
        if begin.elapsed() > run.timeout {
            return Ok(End::TimedOut);
        }
        if !started && boot_begin.elapsed() > BOOT_LIMIT {
            return Ok(End::NeverStarted);
        }
        thread::sleep(POLL);
    }
}

fn end_of(report: Report) -> Option<End> {
    let shell_status = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match report {
        Report::Started | Report::Warning(_) => None,
        Report::Failed(why) => Some(End::Failed(why)),
        Report::Exited(status) => Some(End::Status(shell_status(status))),
        Report::Killed(signal) => Some(End::Status(shell_status(128 + signal))),
    }
}

fn read_if_there(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The files of one run; what explains a failure stays.
struct Folder {
    path: PathBuf,
    console: PathBuf,
    keep: bool,
}

impl Folder {
    fn create(run: &Run) -> Result<Self> {
        let path = env::temp_dir().join(format!("kernelseal-guest-{}", process::id()));
        // Left by an earlier process of the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let console = match &run.console {
            Some(console) => std::path::absolute(console)?,
            None => path.join("console"),
        };
        Ok(Self {
            path,
            console,
            keep: false,
        })
    }

    /// Says what went wrong, if anything did, and gives the exit status for it.
    fn explain(&self, end: &End, run: &Run) -> u8 {
        match end {
            End::Status(status) => *status,
            End::TimedOut => {
                eprintln!(
                    "guest: {} did not end within {} s; raise --timeout if it should take that long",
                    run.command[0],
                    run.timeout.as_secs()
                );
                TIMED_OUT
            }
            End::Failed(why) => {
                eprintln!("guest: {why}");
                GUEST_FAILED
            }
            End::NeverStarted => {
                eprintln!("guest: the kernel ended before user space. QEMU and the kernel said:");
                self.show_console();
                GUEST_FAILED
            }
            End::Died => {
                eprintln!(
                    "guest: the guest ended while {} ran. QEMU and the kernel said:",
                    run.command[0]
                );
                self.show_console();
                GUEST_FAILED
            }
        }
    }

    /// What QEMU and the kernel said: from the kernel's own cry on, or else the last lines.
    fn show_console(&self) {
        let mut shown = 0;
        for file in [&self.path.join("qemu"), &self.console] {
            let text = read_if_there(file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let cry = lines
                .iter()
                .position(|line| CRIES.iter().any(|cry| line.contains(cry)));
            let first = cry.unwrap_or(lines.len().saturating_sub(LINES_SHOWN));
            for line in lines.iter().skip(first).take(LINES_SHOWN) {
                eprintln!("    {line}");
                shown += 1;
            }
        }
        if shown == 0 {
            eprintln!("    (nothing; is --memory enough?)");
        }
    }

    /// Keeps the kernel's log when something failed.
    fn close(mut self, failed: bool) {
        if failed {
            eprintln!("guest: the kernel's log is {}", self.console.display());
            self.keep = true;
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing can be done about a temporary file that does not go away.
        let _ = if self.keep {
            fs::remove_file(self.path.join("initramfs"))
        } else {
            fs::remove_dir_all(&self.path)
        };
    }
}
