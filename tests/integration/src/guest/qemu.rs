//! Starts QEMU, and makes sure that it never outlives its runner.

use std::env;
use std::fs::File;
use std::iter;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::args::{RELAY, Run};
use super::cache::{Cache, Kernel};
use super::protocol::HOST;

/// What the kernel is told. An oops ends the guest: a test must not pass on a damaged kernel.
const KERNEL_ARGUMENTS: &str =
    "loglevel=5 panic=-1 oops=panic lsm=lockdown,capability,yama,bpf rdinit=/init";

/// The files of one boot.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The first file system.
    pub initramfs: &'a Path,
    /// Gets the kernel's log.
    pub console: &'a Path,
    /// Gets the guest's reports.
    pub reports: &'a Path,
    /// Gets QEMU's own complaints.
    pub complaints: &'a Path,
}

/// A running QEMU; dropping it ends it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
}

impl Qemu {
    /// Boots a guest, and gives the stream of its command's output. Call it on a thread that lives as long as the
    /// guest shall: the kernel ends QEMU with the thread that started it.
    pub fn start(
        run: &Run,
        cache: &Cache,
        kernel: &Kernel,
        files: Files<'_>,
    ) -> Result<(Self, ChildStdout)> {
        let mut command = Command::new(cache.qemu(kernel.machine)?);
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(kernel.machine.hardware())
            .args(["-accel", "tcg"])
            .args(["-smp", &run.cpus.to_string(), "-m", &run.memory])
            .args([
                Path::new("-kernel"),
                &kernel.image,
                Path::new("-initrd"),
                files.initramfs,
            ])
            .args(["-append", &kernel_arguments(run, kernel)])
            .args([
                "-chardev",
                &format!("file,id=console,path={}", escape(files.console)),
            ])
            .args(["-chardev", "stdio,id=output,signal=off"])
            .args([
                "-chardev",
                &format!("file,id=reports,path={}", escape(files.reports)),
            ])
            .args(kernel.machine.ports());
        let empty = cache.ext4()?;
        let images = run.disks.iter().map(|disk| &disk.image);
        for (n, image) in iter::once(&empty).chain(images).enumerate() {
            if !image.is_file() {
                bail!("--disk {}: no such file", image.display());
            }
            command
                .args([
                    "-drive",
                    &format!(
                        "if=none,id=disk{n},format=raw,snapshot=on,file={}",
                        escape(image)
                    ),
                ])
                .args(["-device", &format!("virtio-blk-pci,drive=disk{n}")]);
        }
        if let Some(port) = run.reach {
            command
                .args(["-netdev", &network(port)?])
                .args(["-device", "virtio-net-pci,netdev=network,romfile="]);
        }
        if run.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        let complaints = File::create(files.complaints)
            .with_context(|| format!("cannot create {}", files.complaints.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints);
        // SAFETY: between fork and exec the closure makes one system call and touches no memory that another
        // thread of the parent could have left locked.
        unsafe {
            command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let mut child = command.spawn().context("cannot start QEMU")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        Ok((Self { child }, output))
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for QEMU")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel's command line.
fn kernel_arguments(run: &Run, kernel: &Kernel) -> String {
    let console = kernel.machine.console();
    let besides = if run.icount {
        ""
    } else {
        kernel.machine.shortcuts()
    };
    // (of two words of a name, the kernel takes the last)
    let boot = &run.boot;
    format!("console={console} {KERNEL_ARGUMENTS} {besides} {boot}")
}

/// A network of the guest's own, with one port of this machine's loopback in it: QEMU starts a relay for each connection.
fn network(port: u16) -> Result<String> {
    let program = env::current_exe().context("cannot tell where guest itself is")?;
    let program = program.to_str().filter(|path| !path.contains('\''));
    let program =
        program.context("--reach: guest's own path cannot be quoted; build it elsewhere")?;
    let command = escape(Path::new(&format!("'{program}' {RELAY} {port}")));
    Ok(format!(
        "user,id=network,restrict=on,guestfwd=tcp:{HOST}:{port}-cmd:{command}"
    ))
}

/// A path as QEMU's comma-separated options want it.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
