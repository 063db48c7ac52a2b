//! Do the probes tell the truth when nobody has touched them?

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kernelseal_integration::registry::Registry;
use kernelseal_integration::{probe, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Adds this module's tests.
pub fn register(mut registry: Registry) -> Registry {
    // (on arm64 there is none)
    if cfg!(target_arch = "x86_64") {
        registry = registry.test("fixtures::c_32_bit", || tells_the_truth("probe-32"));
    }
    registry
        .test("fixtures::c_static", || tells_the_truth("probe-static"))
        .test("fixtures::c_static_pie", || {
            tells_the_truth("probe-static-pie")
        })
        .test("fixtures::c_dynamic", || tells_the_truth("probe-dynamic"))
        .test("fixtures::go", || tells_the_truth("probe-go"))
        .test("fixtures::rust", || tells_the_truth("probe-rust"))
        .test("fixtures::python_script", || tells_the_truth("probe.py"))
        .test("fixtures::shell_script", || tells_the_truth("probe.sh"))
        .test("fixtures::forks_stay", forks_stay)
        .test("fixtures::threads_stay", threads_stay)
        .test(
            "fixtures::exec_keeps_the_environment",
            exec_keeps_the_environment,
        )
}

fn tells_the_truth(name: &str) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("kernelseal-fixtures-{name}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(folder.join("key"), "in a \"file\"")?;
    let mut command = probe::command(name)?;
    command
        .env("SECRET", r#"with "quotes" and \"#)
        .env("KERNELSEAL_SECRETS_DIR", &folder);
    command.args([
        "--env", "SECRET", "--env", "NONE", "--file", "key", "--file", "none",
    ]);
    let mut probe = process::spawn(&mut command)?;
    let found = probe.json(SOON)?;
    fs::remove_dir_all(&folder)?;
    println!("{found}");
    ensure!(found["pid"] == probe.pid());
    ensure!(found["env"] == json!({"SECRET": r#"with "quotes" and \"#, "NONE": null}));
    ensure!(found["files"]["key"] == json!({"content": "in a \"file\""}));
    ensure!(found["files"]["none"]["error"].is_string());
    ensure!(
        found["argv"]
            .as_array()
            .is_some_and(|argv| argv.len() == 9 && argv[1] == "--env")
    );
    let own = match name {
        // PWD, OLDPWD, SHLVL and _.
        "probe.sh" => 4,
        // LC_CTYPE, where the machine has a locale to set.
        "probe.py" => 1,
        _ => 0,
    };
    let count = found["environ_count"].as_u64().unwrap_or(0);
    ensure!((3..=3 + own).contains(&count), "{count} variables");
    for claim in ["auxv_ok", "rsp_aligned", "stack_ok"] {
        ensure!(
            found
                .get(claim)
                .is_none_or(|value| *value == Value::Bool(true)),
            "{claim} is not true"
        );
    }
    ensure!(probe.wait(SOON)?.success());
    Ok(())
}

fn forks_stay() -> Result<()> {
    for name in ["probe-static", "probe-dynamic", "probe.py", "probe.sh"] {
        let mut probe = process::spawn(probe::command(name)?.arg("--fork"))?;
        probe.json(SOON)?;
        let pids = probe.json(SOON)?;
        ensure!(pids["parent"] == probe.pid(), "{name}: {pids}");
        let child = i32::try_from(pids["child"].as_i64().context("no child")?)?;
        let status = fs::read_to_string(format!("/proc/{child}/status"))?;
        kill(Pid::from_raw(child), Signal::SIGKILL)?;
        ensure!(
            status.contains(&format!("PPid:\t{}\n", probe.pid())),
            "{name}: {status}"
        );
    }
    Ok(())
}

fn threads_stay() -> Result<()> {
    for name in [
        "probe-static",
        "probe-dynamic",
        "probe-go",
        "probe-rust",
        "probe.py",
    ] {
        let mut probe = process::spawn(probe::command(name)?.args(["--threads", "3"]))?;
        probe.json(SOON)?;
        let threads = || fs::read_dir(format!("/proc/{}/task", probe.pid())).map(Iterator::count);
        let mut left = 200;
        while threads()? < 4 {
            ensure!(left > 0, "{name} has {} threads", threads()?);
            left -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn exec_keeps_the_environment() -> Result<()> {
    let target = probe::path("probe-static")?;
    for name in probe::ALL.iter().filter(|name| **name != "probe-32") {
        let mut command = probe::command(name)?;
        command
            .env("KEPT", "yes")
            .arg("--exec")
            .arg(&target)
            .args(["--env", "KEPT"]);
        let mut probe = process::spawn(&mut command)?;
        probe.json(SOON)?;
        let second = probe.json(SOON)?;
        ensure!(
            second["pid"] == probe.pid() && second["env"]["KEPT"] == "yes",
            "{name}: {second}"
        );
    }
    Ok(())
}
