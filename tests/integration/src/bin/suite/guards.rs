//! Guards and precautions by themselves: taken away, no other test would notice.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{Running, run, spawn, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;

use crate::machine::kernel_version;

const SOON: Duration = Duration::from_secs(20);
/// The first kernel whose tmpfs can be kept out of swap.
const NOSWAP: (u32, u32) = (6, 4);

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test("guards::what_is_written_to", what_is_written_to)
        .test("guards::asking_to_be_traced", asking_to_be_traced)
        .test(
            "guards::attaching_within_the_tree",
            attaching_within_the_tree,
        )
        .test("guards::what_a_program_has_open", what_a_program_has_open)
        .test("guards::the_agent_in_audit_mode", the_agent_in_audit_mode)
        .test(
            "guards::the_agents_memory_is_locked",
            the_agents_memory_is_locked,
        )
        .test(
            "guards::how_the_files_are_mounted",
            how_the_files_are_mounted,
        )
        .test(
            "guards::the_files_are_overwritten",
            the_files_are_overwritten,
        )
        .test(
            "guards::a_superblocks_address_used_again",
            a_superblocks_address_used_again,
        )
        .test(
            "guards::through_another_file_system",
            through_another_file_system,
        )
        .test("guards::heard_of_a_file", heard_of_a_file)
        .test(
            "guards::a_link_on_the_way_to_the_files",
            a_link_on_the_way_to_the_files,
        )
}

fn is_refused<T>(result: &io::Result<T>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

fn sealed(agent: &mut Agent) -> Result<Running> {
    let (probe, found) = probe::staying("probe-static")?;
    ensure_both(&found, "hunter2")?;
    agent.event("SEALED", probe.pid())?;
    Ok(probe)
}

/// `clear_refs` makes the kernel tell which pages are used next.
fn what_is_written_to() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let target = sealed(&mut agent)?;
    for name in ["clear_refs", "coredump_filter"] {
        let path = format!("/proc/{}/{name}", target.pid());
        let opened = OpenOptions::new().write(true).open(path);
        ensure!(is_refused(&opened), "{name}: {opened:?}");
        agent.wait_for(
            |event| event["type"] == "BLOCKED" && event["access"] == name,
            SOON,
        )?;
    }
    Ok(())
}

/// Its parent, outside of the seal, would then read all of it.
fn asking_to_be_traced() -> Result<()> {
    for (guarded, errno) in [(true, libc::EPERM), (false, 0)] {
        let config = Config::token_for("probe-static").policy("blockPtrace", guarded);
        let _agent = Agent::run(&config)?;
        let mut command = asked_for_token(probe::path("probe-static")?);
        let (mut probe, found) = report(command.arg("--traceme"))?;
        ensure_both(&found, "hunter2")?;
        let said = probe.json(SOON)?;
        ensure!(said["errno"] == errno, "blockPtrace {guarded}: {said}");
    }
    Ok(())
}

/// Reading each other is the policy's to allow (`allowSelfRead`), attaching is not.
fn attaching_within_the_tree() -> Result<()> {
    let scratch = Scratch::new()?;
    let attack = probe::path("attack")?;
    let body = format!("#!/bin/sh\n{} attach $$ retnuh; exit 0\n", attack.display());
    let program = scratch.program("app.sh", body)?;
    let mut agent = Agent::run(&Config::token_for("app.sh"))?;
    let said = run(Command::new(program)
        .env_clear()
        .env("PATH", "/usr/bin:/bin"))?;
    ensure!(said.contains("\"errno\":1"), "{said}");
    agent.wait_for(
        |event| event["type"] == "BLOCKED" && event["access"] == "ptrace",
        SOON,
    )?;
    Ok(())
}

/// The links to what a program has open are for its tree; those to its executable, its folders and namespaces for everybody.
fn what_a_program_has_open() -> Result<()> {
    let scratch = Scratch::new()?;
    // Itself (`/dev/stdin` is such a link), and its child.
    let body = r#"#!/bin/sh
echo kept >$0.kept; exec 9<$0.kept; rm $0.kept
read line </proc/self/fd/9; echo $line
sh -c "cat /proc/$$/fd/9"
echo both >/proc/self/fd/1
sleep 600
"#;
    let program = scratch.program("app.sh", body)?;
    for is_guarded in [true, false] {
        let config = Config::token_for("app.sh").policy("blockMem", is_guarded);
        let mut agent = Agent::run(&config)?;
        let mut command = Command::new(&program);
        let mut app = spawn(command.env_clear().env("PATH", "/usr/bin:/bin"))?;
        for line in ["kept", "kept", "both"] {
            ensure!(app.line(SOON)? == line);
        }
        let place = format!("/proc/{}", app.pid());
        for free in ["exe", "cwd", "root", "ns/mnt"] {
            fs::metadata(format!("{place}/{free}")).with_context(|| free.to_owned())?;
        }
        let link = format!("{place}/fd/9");
        fs::read_link(&link)?;
        let opened = File::open(&link);
        // (so the kernel has it for a link that it does not follow)
        let is_refused = opened
            .as_ref()
            .is_err_and(|error| error.raw_os_error() == Some(libc::EACCES));
        ensure!(is_refused == is_guarded, "{opened:?}");
        ensure!(opened.is_ok() != is_guarded, "{opened:?}");
        ensure!(fs::metadata(&link).is_ok() != is_guarded);
        let own = File::open("/proc/self/exe")?;
        File::open(format!("/proc/self/fd/{}", own.as_raw_fd()))?;
        if is_guarded {
            let pid = app.pid();
            agent.wait_for(
                |event| {
                    event["type"] == "BLOCKED"
                        && event["access"] == "fd"
                        && event["target_pid"] == pid
                },
                SOON,
            )?;
        }
    }
    Ok(())
}

fn the_agent_in_audit_mode() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static").policy("mode", "audit"))?;
    for name in ["environ", "mem"] {
        let opened = File::open(format!("/proc/{}/{name}", agent.pid()));
        ensure!(is_refused(&opened), "{name}: {opened:?}");
    }
    Ok(())
}

fn the_agents_memory_is_locked() -> Result<()> {
    let agent = Agent::run(&Config::token_for("probe-static"))?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let locked: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:")?.split_whitespace().next())
        .context("no VmLck")?
        .parse()?;
    ensure!(locked > 0, "{status}");
    Ok(())
}

fn how_the_files_are_mounted() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let target = sealed(&mut agent)?;
    let place = format!(" /run/kernelseal/secrets/{} ", target.pid());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", target.pid()))?;
    let line = mounts
        .lines()
        .find(|line| line.contains(&place))
        .with_context(|| mounts.clone())?;
    let mut options = vec!["nosuid", "nodev", "noexec", "mode=500"];
    if kernel_version()? >= NOSWAP {
        options.push("noswap");
    }
    for option in options {
        ensure!(line.contains(option), "{option} is not in {line}");
    }
    Ok(())
}

/// What is remembered of a file system that had nothing to guard does not hold for the next one at
/// its address.
fn a_superblocks_address_used_again() -> Result<()> {
    /// The kernel gives an address out again soon, not always at once.
    const TURNS: usize = 200;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let target = sealed(&mut agent)?;
    let scratch = Scratch::new()?;
    let place = scratch.join("place");
    fs::create_dir(&place)?;
    let mounted = |kind: &str| {
        mount(
            Some(kind),
            &place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount {kind}"))
    };
    for turn in 0..TURNS {
        mounted("tmpfs")?;
        fs::write(place.join("ordinary"), "ordinary")?;
        umount(&place)?;
        mounted("proc")?;
        let opened = File::open(place.join(target.pid().to_string()).join("environ"));
        umount(&place)?;
        ensure!(is_refused(&opened), "turn {turn}: {opened:?}");
    }
    Ok(())
}

/// An overlay opens the file below it in its own name, and has a superblock of its own.
fn through_another_file_system() -> Result<()> {
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let target = sealed(&mut agent)?;
    let scratch = Scratch::new()?;
    let merged = scratch.join("merged");
    fs::create_dir(&merged)?;
    fs::create_dir(scratch.join("other"))?;
    fs::write(scratch.join("other/ordinary"), "ordinary")?;
    let layers = format!(
        "lowerdir=/proc/{}/root/run/kernelseal/secrets/{}:{}",
        target.pid(),
        target.pid(),
        scratch.join("other").display()
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(layers.as_str()),
    )
    .context("mount an overlay")?;
    let found = (
        fs::read(merged.join("ordinary")),
        fs::read(merged.join("TOKEN")),
    );
    umount(&merged)?;
    ensure!(found.0.is_ok_and(|text| text == b"ordinary"));
    ensure!(is_refused(&found.1), "{:?}", found.1);
    let event = agent.event("BLOCKED", std::process::id())?;
    ensure!(event["access"] == "secret_file", "{event}");
    Ok(())
}

/// Seen by a descriptor taken from the program, which the policy allows here.
fn the_files_are_overwritten() -> Result<()> {
    const NUMBER: i32 = 7;
    let scratch = Scratch::new()?;
    let body = format!(
        "#!/bin/sh\nexec {NUMBER}<$KERNELSEAL_SECRETS_DIR/TOKEN\necho opened\nexec sleep 600\n"
    );
    let program = scratch.program("app.sh", body)?;
    let config = Config::token_for("app.sh").policy("blockPtrace", false);
    let _agent = Agent::run(&config)?;
    let mut app = spawn(
        Command::new(program)
            .env_clear()
            .env("PATH", "/usr/bin:/bin"),
    )?;
    ensure!(app.line(SOON)? == "opened");
    let file = descriptor_of(app.pid(), NUMBER)?;
    let content = || -> Result<Vec<u8>> {
        let mut bytes = vec![0; 64];
        let length = file.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Ok(bytes)
    };
    ensure!(content()? == b"hunter2");
    drop(app);
    until("the file is overwritten", SOON, || {
        content().is_ok_and(|bytes| bytes == [0; 7])
    })
}

/// A copy of another process's descriptor.
fn descriptor_of(pid: u32, number: i32) -> Result<File> {
    let check = |descriptor: i64| -> Result<OwnedFd> {
        let descriptor = i32::try_from(descriptor)?;
        ensure!(descriptor >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the kernel has just given it to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    // SAFETY: takes numbers only.
    let process = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: takes numbers only, of an open descriptor the first.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    Ok(check(copy)?.into())
}

/// Whoever owns the program's root must not send the agent elsewhere with its secrets.
fn a_link_on_the_way_to_the_files() -> Result<()> {
    let root = Scratch::new()?;
    root.probe("probe-static", "probe-static")?;
    fs::create_dir(root.join("elsewhere"))?;
    symlink("elsewhere", root.join("run"))?;
    let mut agent = Agent::run(&Config::token_for("probe-static"))?;
    let mut command = asked_for_token(Path::new("/probe-static"));
    let folder = root.path().to_owned();
    // SAFETY: two system calls; nothing that a forked child must not do.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::chroot(&folder)?;
            std::env::set_current_dir("/")
        });
    }
    let mut probe = spawn(&mut command)?;
    ensure!(probe.line(SOON).is_err(), "it started");
    let reason = agent.refusal(probe.pid())?;
    ensure!(reason.contains("directory run"), "{reason}");
    let found = fs::read_dir(root.join("elsewhere"))?.count();
    ensure!(found == 0, "the agent followed a link");
    Ok(())
}

/// What fanotify tells of a file comes with a descriptor of it, opened for the listener.
fn heard_of_a_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let body = "#!/bin/sh\necho ready\nwhile :; do cat \"$KERNELSEAL_SECRETS_DIR/TOKEN\" >/dev/null; sleep 0.1; done\n";
    let program = scratch.program("reads.sh", body)?;
    for mode in ["audit", "enforce"] {
        let mut agent = Agent::run(&Config::token_for("reads.sh").policy("mode", mode))?;
        let mut target = spawn(&mut asked_for_token(&program))?;
        ensure!(target.line(SOON)? == "ready");
        let file = format!("/run/kernelseal/secrets/{}/TOKEN", target.pid());
        let mut command = Command::new(probe::path("listener")?);
        let mut listener = spawn(command.args(["hears", &file]))?;
        ensure!(listener.json(SOON)?["errno"] == 0, "it does not listen");
        let heard = listener.json(SOON)?;
        let (expected, kind) = if mode == "audit" {
            (json!({"content": "hunter2"}), "AUDIT")
        } else {
            (json!({"errno": libc::EPERM}), "BLOCKED")
        };
        ensure!(heard == expected, "{mode}: {heard}");
        agent.wait_for(
            |event| {
                event["type"] == kind
                    && event["access"] == "secret_file"
                    && event["process"] == "listener"
            },
            SOON,
        )?;
    }
    Ok(())
}
