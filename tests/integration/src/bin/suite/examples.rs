//! An agent starts on every example, or the example says at its top that none does.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;

const EXAMPLES: &str = "/usr/share/kernelseal/examples";
/// How the first line of an example begins that `run` refuses here.
const SHOWCASE: &str = "# A showcase";
/// What the examples want mounted.
const MOUNTED: [&str; 2] = ["stripe/api-key", "db-credentials/password"];

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry.test("examples::do_what_they_say", do_what_they_say)
}

fn do_what_they_say() -> Result<()> {
    let mut showcases = 0;
    for entry in fs::read_dir(EXAMPLES).context("the examples are given to a guest with --add")? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        if text.starts_with(SHOWCASE) {
            let (_, said) = Agent::expect_failure(&text)?;
            ensure!(said.contains("selector.namespace"), "{said}");
            showcases += 1;
        } else {
            starts(&text).with_context(|| path.display().to_string())?;
        }
    }
    ensure!(showcases == 1, "{showcases} showcases");
    Ok(())
}

/// With the folders it names in a place of ours.
fn starts(example: &str) -> Result<()> {
    let scratch = Scratch::new()?;
    for file in MOUNTED {
        scratch.file(Path::new("secrets").join(file), "a secret")?;
    }
    let secrets = scratch.join("secrets").display().to_string();
    let mut config = example
        .replace("/etc/kernelseal/secrets", &secrets)
        .replace("/var/log/kernelseal", &scratch.path().display().to_string());
    if !config.contains("secretsDir:") {
        writeln!(config, "secretsDir: {secrets}")?;
    }
    Agent::start(&config)?.readied().map(drop)
}
