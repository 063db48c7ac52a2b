//! What users are told: each case of the tables beside this file is a command line with its input, and the very lines and exit
//! code that it gets.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde::Deserialize;

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
