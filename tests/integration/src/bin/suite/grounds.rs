//! The main job on whatever machine this is, and the refusal of one on which it cannot be done (`make grounds`).

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::container::Container;
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, ensure_none, report};
use kernelseal_integration::process::run;
use kernelseal_integration::registry::Registry;
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, statfs};

const SOON: Duration = Duration::from_secs(30);
const POD: &str = "0a1b2c3d-1111-2222-3333-444455558888";
const PROGRAM: &str = "probe-static";
/// Names the variable that says what an agent answers that is to refuse this machine.
const REFUSES: &str = "KERNELSEAL_REFUSES";
/// `EROFS_SUPER_MAGIC_V1` (uapi/linux/magic.h)
const EROFS: FsType = FsType(0xe0f5_e1e2);

/// The default `AppArmor` profile of container runtimes, as kernels load it, where the guest was given it.
const PROFILE: &str = "/usr/share/kernelseal/docker-default";
const LOAD_PROFILE: &str = "/sys/kernel/security/apparmor/.replace";
/// A shell's script that runs a program under the profile.
const UNDER_PROFILE: &str = r#"echo "exec docker-default" >/proc/self/attr/exec && exec "$0" "$@""#;

/// Adds this module's tests.
pub fn register(mut registry: Registry) -> Registry {
    // (there nothing else is tried)
    if let Ok(why) = env::var(REFUSES) {
        return registry.test("grounds::it_refuses", move || it_refuses(&why));
    }
    registry = registry.test("grounds::it_refuses", it_does_not_refuse);
    if Path::new(PROFILE).exists() {
        registry = registry.test("grounds::under_a_runtimes_profile", under_a_profile);
    }
    registry
        .test("grounds::the_main_job", the_main_job)
        .test("grounds::programs_of_the_root", programs_of_the_root)
}

/// A machine that is not said to be unfit is none.
fn it_does_not_refuse() -> Result<()> {
    Agent::run(&Config::token_for(PROGRAM)).map(drop)
}

fn the_main_job() -> Result<()> {
    let check = Agent::command(&["check"]).output()?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(check.status.success() && !said.contains("FAIL"), "{said}");
    let mut agent = Agent::run(&Config::token_for(PROGRAM))?;
    let mut target = asked_for_token(probe::path(PROGRAM)?);
    let (probe, found) = report(target.args(["--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    let environ = format!("/proc/{}/environ", probe.pid());
    ensure!(fs::read(&environ).is_err(), "{environ} can be read");
    agent.event("SEALED", probe.pid())?;
    agent.event("BLOCKED", std::process::id())?;
    let status = Agent::command(&["status"]).output()?;
    ensure!(status.status.success(), "{status:?}");
    drop(probe);
    ensure!(agent.stop()?.success(), "it did not end well");
    Ok(())
}

/// A container whose root is the machine's: what lies there is of its image where the file system tells, and refused with a word of
/// warning where it does not.
fn programs_of_the_root() -> Result<()> {
    let root = statfs("/")?.filesystem_type();
    let is_image = [OVERLAYFS_SUPER_MAGIC, EROFS].contains(&root);
    let place = Place::pod()?;
    let start =
        |name, number, program: &Path| Container::new(POD, name, number)?.command(&place, program);
    let kernelseal = Agent::command(&[]).get_program().to_owned();
    let agent = start("kernelseal", 1, Path::new(&kernelseal))?;
    let config = Config::token_for(PROGRAM).without("provenance");
    let mut agent = Agent::start_as(agent, &config.to_string())?.readied()?;
    let mut app = start("app", 2, &probe::path(PROGRAM)?)?;
    let found = report(app.args(["--env", "TOKEN", "--file", "TOKEN"]));
    if is_image {
        return ensure_both(&found?.1, "hunter2");
    }
    ensure!(found.is_err(), "it started, on {root:?}");
    let refused = agent.wait_for(|event| event["type"] == "REFUSED", SOON)?;
    let reason = refused["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("does not tell the image"), "{reason}");
    agent.wait_for_log("`selector.provenance: any`", SOON)
}

fn under_profile(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", UNDER_PROFILE]).arg(program);
    command
}

/// The application lives under it, as all do who say nothing. An agent cannot, and says so.
fn under_a_profile() -> Result<()> {
    fs::write(LOAD_PROFILE, fs::read(PROFILE)?).context("the kernel refuses the profile")?;
    let mut agent = Agent::run(&Config::token_for(PROGRAM))?;
    let mut target = under_profile(&probe::path(PROGRAM)?);
    target.args(["--env", "TOKEN", "--file", "TOKEN", "--sleep", "600"]);
    let (target, found) = report(&mut target)?;
    ensure_both(&found, "hunter2")?;
    let folder = format!("/proc/{}", target.pid());
    let profile = fs::read_to_string(format!("{folder}/attr/current"))?;
    ensure!(profile == "docker-default (enforce)\n", "{profile}");
    ensure!(fs::read(format!("{folder}/environ")).is_err(), "{folder}");
    // A neighbour in the same profile, which lets it trace its like, neither.
    let mut neighbour = under_profile(Path::new("/bin/cat"));
    let read = neighbour.arg(format!("{folder}/environ")).output()?;
    ensure!(!read.status.success() && read.stdout.is_empty(), "{read:?}");
    agent.event("BLOCKED", std::process::id())?;
    drop(target);
    ensure!(agent.stop()?.success());
    run(&mut Agent::command(&["cleanup", "--force"]))?;

    let kernelseal = Agent::command(&[]).get_program().to_owned();
    let agent = under_profile(Path::new(&kernelseal));
    let agent = Agent::start_as(agent, &Config::token_for(PROGRAM).to_string())?;
    let (_, said) = agent.failure()?;
    for part in ["docker-default", "apparmor=unconfined"] {
        ensure!(said.contains(part), "{said}");
    }
    Ok(())
}

fn it_refuses(why: &str) -> Result<()> {
    let (_, said) = Agent::expect_failure(&Config::token_for(PROGRAM).to_string())?;
    ensure!(said.contains(why) && !said.contains("watching"), "{said}");
    let found = report(&mut asked_for_token(probe::path(PROGRAM)?))?.1;
    ensure_none(&found)?;
    // Nothing is left that looks like a guard.
    let status = Agent::command(&["status"]).output()?;
    let told = String::from_utf8_lossy(&status.stdout);
    ensure!(
        told.contains("not loaded") && !status.status.success(),
        "{status:?}"
    );
    let check = run(&mut Agent::command(&["check"]));
    let told = check.err().context("check says it can enforce")?;
    ensure!(format!("{told:#}").contains(why), "{told:#}");
    Ok(())
}
