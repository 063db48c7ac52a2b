//! Bindings that do nothing are told of: their program ran before, their path is nowhere, or nothing tells an image there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::config::Config;
use kernelseal_integration::container::{Container, Deed};
use kernelseal_integration::pod::Place;
use kernelseal_integration::probe::{asked_for_token, ensure_both, report};
use kernelseal_integration::process::{Running, spawn};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
const POD: &str = "0a1b2c3d-1111-2222-3333-444455557777";
/// What tells of a root that tells no image.
const NO_IMAGE: &str = "does not tell the image from what came later";
/// What an agent needs of the machine, in a root of its own.
const OF_MACHINE: [&str; 3] = ["sys", "dev", "tmp"];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .test(
            "unmatched::a_program_that_ran_before_is_told_of",
            a_program_that_ran_before,
        )
        .test(
            "unmatched::a_path_that_is_nowhere_is_told_of",
            a_path_that_is_nowhere,
        )
        .test(
            "unmatched::an_image_that_nothing_tells_is_told_of",
            an_image_that_nothing_tells,
        )
}

/// How a running program is told of.
fn told(program: &Running) -> String {
    format!("runs already, as process {},", program.pid())
}

fn a_program_that_ran_before() -> Result<()> {
    let folder = Scratch::new()?;
    let one = folder.probe("probe-static", "ran-one")?;
    let two = folder.probe("probe-static", "ran-two")?;
    let start = |program| spawn(asked_for_token(program).args(["--sleep", "600"]));
    let before = start(&one)?;
    let config = folder.file("config.yaml", Config::token_for("ran-one").to_string())?;
    let mut agent = Agent::start_with(Agent::command(&[]), &config)?.readied()?;
    agent.wait_for_log(&told(&before), SOON)?;

    // After a reload the same of what it names newly. What was started under its eyes has its secrets.
    let sealed = start(&one)?;
    agent.event("SEALED", sealed.pid())?;
    // (procfs tells starts in hundredths of a second: one of the same hundredth is taken for the sealed one)
    thread::sleep(Duration::from_millis(50));
    let unwatched = start(&two)?;
    let both = Config::token_for("ran-one")
        .and_seal("ran-two")
        .value("TOKEN", "hunter2");
    fs::write(&config, both.to_string())?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_for_log(&told(&unwatched), SOON)?;
    let log = agent.log().join("\n");
    ensure!(!log.contains(&told(&sealed)), "{log}");
    Ok(())
}

fn a_path_that_is_nowhere() -> Result<()> {
    let folder = Scratch::new()?;
    let there = folder.probe("probe-static", "there")?;
    let there = there.display().to_string();
    let config = Config::token_for("/opt/nowhere/app").and_seal(&there);
    let config = config.value("TOKEN", "hunter2");
    let mut agent = Agent::run(&config)?;
    agent.wait_for_log("has /opt/nowhere/app in its root", SOON)?;
    ensure!(
        !agent.log_contains(&format!("has {there} in its root")),
        "{there}"
    );
    Ok(())
}

/// The root of a container: what its runtime made of an image, an overlay or a plain folder (as its native snapshots are).
struct ContainerRoot {
    path: PathBuf,
    _scratch: Scratch,
}

impl ContainerRoot {
    fn new(is_overlay: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let image = scratch.join("image");
        for folder in ["proc", "run", "usr/bin"].iter().chain(&OF_MACHINE) {
            fs::create_dir_all(image.join(folder))?;
        }
        fs::write(image.join("termination-log"), "")?;
        fs::copy(
            Agent::command(&[]).get_program(),
            image.join("usr/bin/kernelseal"),
        )?;
        scratch.probe("probe-static", "image/usr/bin/target")?;
        let path = if is_overlay {
            for folder in ["upper", "work", "root"] {
                fs::create_dir(scratch.join(folder))?;
            }
            let layers = format!(
                "lowerdir={0}/image,upperdir={0}/upper,workdir={0}/work",
                scratch.path().display()
            );
            let (kind, root) = (Some("overlay"), scratch.join("root"));
            mount(kind, &root, kind, MsFlags::empty(), Some(layers.as_str())).context("overlay")?;
            root
        } else {
            bind(&image, &image)?;
            image
        };
        let root = Self {
            path,
            _scratch: scratch,
        };
        for folder in OF_MACHINE {
            bind(&Path::new("/").join(folder), &root.path.join(folder))?;
        }
        // (what is unmounted here in the end stays where it comes from)
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(
            None::<&str>,
            &root.path,
            None::<&str>,
            private,
            None::<&str>,
        )?;
        Ok(root)
    }
}

impl Drop for ContainerRoot {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    let all = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, all, None::<&str>).with_context(|| to.display().to_string())
}

/// An agent's and an application's container with such roots.
fn an_image_that_nothing_tells() -> Result<()> {
    let unsaid = Config::token_for("target").without("provenance");
    for (is_overlay, config, is_told) in [
        (false, &unsaid, true),
        (false, &Config::token_for("target"), false),
        (true, &unsaid, false),
    ] {
        let root = ContainerRoot::new(is_overlay)?;
        let place = Place::pod()?;
        let proc = [Deed::Mount("proc", Path::new("/proc"), "")];
        let start = |name, number, program| -> Result<Command> {
            let container = Container::new(POD, name, number)?.rooted(&root.path);
            container.command_after(&place, &proc, program)
        };
        let agent = start("kernelseal", 1, "/usr/bin/kernelseal")?;
        // (in a folder that it sees at the same place)
        let folder = Scratch::new()?;
        let file = folder.file("config.yaml", config.to_string())?;
        let mut agent = Agent::start_with(agent, &file)?.readied()?;
        let app = || -> Result<_> {
            let mut app = start("app", 2, "/usr/bin/target")?;
            app.args(["--env", "TOKEN", "--file", "TOKEN"]);
            Ok(app)
        };
        if !is_told {
            let (_, found) = report(&mut app()?)?;
            ensure_both(&found, "hunter2")?;
            ensure!(!agent.log_contains(NO_IMAGE), "{:?}", agent.log());
            continue;
        }
        agent.wait_for_log(NO_IMAGE, SOON)?;
        let told = |agent: &mut Agent| {
            let lines = agent.log().iter();
            lines
                .filter(|line| line.contains(NO_IMAGE))
                .cloned()
                .collect::<Vec<_>>()
        };
        let line = told(&mut agent).join("\n");
        for part in ["tmpfs", "binding-0", "`selector.provenance: any`"] {
            ensure!(line.contains(part), "{part}: {line}");
        }
        // What it warned of is so.
        ensure!(report(&mut app()?).is_err(), "it started");
        agent.wait_for(|event| event["type"] == "REFUSED", SOON)?;
        // Once is enough.
        let edited = config.clone().policy("auditAll", true);
        fs::write(&file, edited.to_string())?;
        agent.signal(Signal::SIGHUP)?;
        agent.wait_for(|event| event["action"] == "config_reloaded", SOON)?;
        agent.events(Duration::from_secs(1))?;
        ensure!(told(&mut agent).len() == 1, "{:?}", agent.log());
    }
    Ok(())
}
