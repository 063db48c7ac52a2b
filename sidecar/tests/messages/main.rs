//! What users are told: each case of the tables beside this file is a command line with its input, and the very lines and exit
//! code that it gets.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output, Stdio},
};

use serde::Deserialize;

/// The user that owns nothing.
const NOBODY: u32 = 65534;

/// A row of a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// By their paths below the folder in which the command runs.
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    stdin: String,
    /// The command line behind `kernelseal`.
    run: String,
    stderr: String,
    /// Where it is left out: for exit code 0 something, otherwise nothing.
    stdout: Option<String>,
    code: i32,
}

impl Case {
    fn output(&self) -> Output {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in &self.files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
            .args(self.run.split_whitespace())
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who reads no standard input may have ended by now.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// How what happens differs from what the table says, if it does.
    fn difference(&self) -> Option<String> {
        let output = self.output();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code();
        let is_as_told = match &self.stdout {
            Some(told) => stdout == *told,
            None => stdout.is_empty() == (self.code != 0),
        };
        let is_same = stderr == self.stderr && code == Some(self.code) && is_as_told;
        (!is_same).then(|| {
            format!(
                "{}: kernelseal {}\nexit {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}",
                self.name, self.run
            )
        })
    }
}

/// Every row of a table, of which there are at least so many.
fn assert_all(table: &str, at_least: usize) {
    let cases: Vec<Case> = serde_saphyr::from_str(table).unwrap();
    assert!(cases.len() >= at_least, "{}", cases.len());
    let differences: Vec<_> = cases.iter().filter_map(Case::difference).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn inject_tells_what_became_of_each_object_and_why() {
    assert_all(include_str!("inject.yaml"), 20);
}

#[test]
fn validate_says_where_why_and_what_to_do() {
    assert_all(include_str!("validate.yaml"), 30);
}

#[test]
fn an_ordinary_user_is_told_so_first() {
    let folder = tempfile::tempdir().unwrap();
    // Where that user can execute it.
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("kernelseal");
    // (by another process: a child that another test forks meanwhile would keep our copy open for writing, and it could not be executed)
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_kernelseal"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let config = folder.path().join("config.yaml");
    fs::write(&config, "version: v1\n").unwrap();
    for command in [
        &["run", "--config", config.to_str().unwrap()][..],
        &["check"],
        &["status"],
    ] {
        let mut ordinary = Command::new(&program);
        ordinary.args(command);
        if rustix::process::geteuid().is_root() {
            ordinary.uid(NOBODY).gid(NOBODY);
        }
        let output = ordinary.output().unwrap();
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8(said).unwrap();
        let first = said.lines().next().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(
            first.contains("not root (this is user") && first.contains("CAP_SYS_ADMIN"),
            "{command:?}: {said}"
        );
        assert!(
            !said.contains("Run `kernelseal check`"),
            "{command:?}: {said}"
        );
    }
}
