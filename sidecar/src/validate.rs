//! `kernelseal validate`: reads configurations and says what is wrong with them.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::{self, Checked, ConfigError};

/// What is to be read, and how to tell.
#[derive(Args)]
pub(crate) struct Options {
    /// The configurations. `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How to tell: text, with errors and warnings on stderr; or one JSON object on stdout.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Fail on warnings, too.
    #[arg(long)]
    strict: bool,
}

/// See [`Options::output`].
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What was found in one file.
#[derive(Serialize)]
struct Verdict {
    file: String,
    ok: bool,
    /// How many there are; none where the file is wrong.
    bindings: Option<usize>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    #[serde(skip)]
    lines: Vec<String>,
}

/// An error or a warning. Neither contains a secret's value.
#[derive(Serialize)]
struct Finding {
    /// From 1.
    line: Option<usize>,
    /// In characters, from 1.
    column: Option<usize>,
    message: String,
    help: Option<String>,
}

impl Finding {
    fn of(error: &ConfigError) -> Self {
        Self {
            line: error.line(),
            column: error.column(),
            message: error.message.clone(),
            help: error.hint.clone(),
        }
    }
}

/// Reads and judges each file; fails if one is wrong.
pub(crate) fn run(options: &Options) -> ExitCode {
    let verdicts: Vec<_> = options
        .files
        .iter()
        .map(|file| judge(file, options.strict))
        .collect();
    let ok = verdicts.iter().all(|verdict| verdict.ok);
    if options.output == Format::Json {
        println!("{:#}", serde_json::json!({"ok": ok, "files": verdicts}));
    } else {
        for verdict in &verdicts {
            for line in &verdict.lines {
                eprintln!("{line}");
            }
            if let (true, Some(bindings)) = (verdict.ok, verdict.bindings) {
                println!("{}: ok, {bindings} bindings", verdict.file);
            }
        }
    }
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn judge(file: &Path, strict: bool) -> Verdict {
    let checked = if file == Path::new("-") {
        config::check_stdin()
    } else {
        config::check(file)
    };
    match checked {
        Ok(Checked { config, warnings }) => Verdict {
            file: file.display().to_string(),
            ok: warnings.is_empty() || !strict,
            bindings: Some(config.secrets.len()),
            errors: Vec::new(),
            warnings: warnings.iter().map(Finding::of).collect(),
            lines: warnings
                .iter()
                .map(|it| it.as_warning().to_string())
                .collect(),
        },
        Err(errors) => Verdict {
            file: file.display().to_string(),
            ok: false,
            bindings: None,
            errors: errors.iter().map(Finding::of).collect(),
            warnings: Vec::new(),
            lines: vec![errors.to_string()],
        },
    }
}
