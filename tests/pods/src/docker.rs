//! The README's `docker run`, by Docker's own engine: the tests `docker::`, which `make guest-docker` runs in a guest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::probe::{self, asked_for_token, ensure_both, report};
use kernelseal_integration::process::{run, until};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::system;
use serde_json::Value;

use crate::delivery::LIMIT;
use crate::node::{disk, write};

/// Where the guest has what the README and the Dockerfile are about.
const SOURCE: &str = "/usr/share/kernelseal/source";
const READY: Duration = Duration::from_mins(2);
const CONFIG: &str = "version: v1
secrets:
  - name: checkout
    selector: {binary: checkout}
    secretRefs:
      - name: TOKEN
        source: {value: hunter2}
";

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry.slow_test("docker::as_the_readme_says", LIMIT, as_the_readme_says)
}

/// Docker's engine, which ends with it.
struct Docker {
    root: PathBuf,
    engine: Child,
}

impl Docker {
    fn start() -> Result<Self> {
        let root = disk()?;
        write(&root, "var/log/dockerd.log", "")?;
        let log = root.join("var/log/dockerd.log");
        let mut engine = system::command(&root, "/usr/sbin/dockerd")?;
        let engine = engine
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start dockerd")?;
        let docker = Self { root, engine };
        until("docker answers", READY, || docker.run(&["version"]).is_ok())
            .with_context(|| fs::read_to_string(&log).unwrap_or_else(|_| "it has no log".into()))?;
        Ok(docker)
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        run(system::command(&self.root, "/usr/bin/docker")?.args(words))
    }

    /// What a container wrote, to its standard output and its standard error.
    fn log(&self, container: &str) -> Result<String> {
        let output = system::command(&self.root, "/usr/bin/docker")?
            .args(["logs", container])
            .output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Builds an image of a Dockerfile and the files it copies.
    fn build(&self, name: &str, dockerfile: &str, files: &[&Path]) -> Result<()> {
        let context = format!("tmp/{name}");
        write(&self.root, &format!("{context}/Dockerfile"), dockerfile)?;
        for file in files {
            let name = file.file_name().context("no name")?;
            fs::copy(file, self.root.join(&context).join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
        self.run(&["build", "--tag", name, &format!("/{context}")])?;
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--force", "kernelseal"]);
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

/// The words of the README's command that begins so.
fn readmes(beginning: &str) -> Result<Vec<String>> {
    let readme = fs::read_to_string(Path::new(SOURCE).join("README.md"))?;
    let mut command = String::new();
    for line in readme
        .lines()
        .skip_while(|line| !line.trim_start().starts_with(beginning))
    {
        command += line.trim_end_matches('\\');
        if !line.ends_with('\\') {
            break;
        }
    }
    let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    ensure!(!words.is_empty(), "the README has no command `{beginning}`");
    // Then words are what a shell takes for words.
    ensure!(!command.contains(['\'', '"', '$', '`']), "{command}");
    Ok(words)
}

/// The last stage of the Dockerfile, which takes the program from the first one: here it is there already.
fn last_stage() -> Result<String> {
    let text = fs::read_to_string(Path::new(SOURCE).join("Dockerfile"))?;
    let (_, stage) = text.rsplit_once("FROM ").context("no FROM")?;
    let built = "COPY --from=build /src/target/release/kernelseal ";
    ensure!(stage.contains(built), "{stage}");
    Ok(format!("FROM {stage}").replace(built, "COPY kernelseal "))
}

fn is_ready() -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", 9090))?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"))
}

/// It answers for programs of the machine and for those in containers, and nobody else reads them.
fn as_the_readme_says() -> Result<()> {
    let docker = Docker::start()?;
    let licences = ["LICENSE", "LICENSE-GPL-2.0"].map(|name| Path::new(SOURCE).join(name));
    let kernelseal = Path::new("/usr/bin/kernelseal");
    let files = [kernelseal, &licences[0], &licences[1]];
    docker.build("kernelseal", &last_stage()?, &files)?;
    let shop = "FROM scratch\nCOPY checkout busybox /bin/\n";
    // (where root alone may write, as programs are installed)
    fs::create_dir_all(docker.root.join("opt"))?;
    let checkout = docker.root.join("opt/checkout");
    fs::copy(probe::path("probe-static")?, &checkout)?;
    docker.build("shop", shop, &[&checkout, Path::new("/usr/bin/busybox")])?;
    write(&docker.root, "etc/kernelseal/config.yaml", CONFIG)?;

    let words = readmes("docker run -d --name kernelseal ")?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    docker.run(&words[1..])?;
    until("the agent is ready", READY, || is_ready().unwrap_or(false))
        .with_context(|| docker.log("kernelseal").unwrap_or_default())?;

    let (target, found) = report(asked_for_token(&checkout).args(["--sleep", "600"]))?;
    ensure_both(&found, "hunter2")?;
    let environ = format!("/proc/{}/environ", target.pid());
    let read = [
        "run",
        "--rm",
        "--pid=host",
        "shop",
        "/bin/busybox",
        "cat",
        &environ,
    ];
    let error = docker
        .run(&read)
        .err()
        .context("another container reads it")?;
    ensure!(format!("{error:#}").contains("not permitted"), "{error:#}");

    let asks = "run --rm shop /bin/checkout --env TOKEN --file TOKEN";
    let told = docker.run(&asks.split(' ').collect::<Vec<_>>())?;
    let found: Value = serde_json::from_str(told.trim()).with_context(|| told)?;
    ensure_both(&found, "hunter2")?;

    let told = docker.run(&["exec", "kernelseal", "/kernelseal", "check"])?;
    ensure!(told.contains("can enforce"), "{told}");
    let log = docker.log("kernelseal")?;
    let sealed = log
        .lines()
        .filter(|line| line.contains(r#""type":"SEALED""#))
        .count();
    ensure!(sealed == 2, "{log}");
    docker.run(&["stop", "kernelseal"])?;
    let status = docker.run(&["inspect", "--format", "{{.State.ExitCode}}", "kernelseal"])?;
    ensure!(status.trim() == "0", "{status}");
    drop(target);
    Ok(())
}
