//! Collects tests and runs them one after another, in the format of `cargo test`.

use std::any::Any;
use std::env;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process::{self, ExitCode};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::capture::Capture;
use crate::{container, hang, namespace};

/// A test that takes longer is taken to hang: the whole run then ends, and says where. (On a busy machine an emulated one
/// was seen to take half a minute to load the kernel side, which some do four times.)
const LIMIT: Duration = Duration::from_mins(4);
/// Names the variable that divides the tests among several runs.
const SLICE: &str = "KERNELSEAL_SLICE";
/// Names the variable that names the tests to run by how their names begin, several with commas between them. (A command line has
/// one part of a name.)
const BEGINNINGS: &str = "KERNELSEAL_TESTS";
/// The exit status of a run with a test that hangs, as of one that failed.
const FAILED: i32 = 101;

/// The tests of a program.
#[derive(Default)]
pub struct Registry {
    tests: Vec<Test>,
}

struct Test {
    name: String,
    limit: Duration,
    body: Box<dyn Fn() -> Result<()> + Send>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test. It fails by an error or a panic.
    #[must_use]
    pub fn test(
        self,
        name: impl Into<String>,
        body: impl Fn() -> Result<()> + Send + 'static,
    ) -> Self {
        self.slow_test(name, LIMIT, body)
    }

    /// Adds a test that may take as long as `limit`.
    #[must_use]
    pub fn slow_test(
        mut self,
        name: impl Into<String>,
        limit: Duration,
        body: impl Fn() -> Result<()> + Send + 'static,
    ) -> Self {
        self.tests.push(Test {
            name: name.into(),
            limit,
            body: Box::new(body),
        });
        self
    }

    /// Runs the tests that the command line asks for; the arguments are those of `cargo test`. `KERNELSEAL_SLICE=1/2` leaves
    /// every other one to another run.
    #[must_use]
    pub fn main(self) -> ExitCode {
        if let Some(status) = namespace::intercept().or_else(container::intercept) {
            return status;
        }
        let mut arguments = Arguments::from_iter(env::args());
        // Tests share one kernel, and what they print is told apart by time.
        arguments.test_threads = Some(1);
        let captured = !arguments.nocapture;
        let slice = env::var(SLICE).unwrap_or_else(|_| "1/1".into());
        let Some((first, of)) = parse_slice(&slice) else {
            eprintln!(
                "{SLICE}={slice}: 1/2 is the first of two slices of the tests, 2/2 the second"
            );
            return ExitCode::FAILURE;
        };
        let beginnings = env::var(BEGINNINGS).unwrap_or_default();
        let trials = self
            .tests
            .into_iter()
            .filter(|test| begins_so(&test.name, &beginnings))
            .skip(first)
            .step_by(of)
            .map(|test| Trial::test(test.name.clone(), move || run(&test, captured)))
            .collect();
        let conclusion = libtest_mimic::run(&arguments, trials);
        if !arguments.list && conclusion.num_passed + conclusion.num_failed == 0 {
            eprintln!(
                "no test was run: no name contains what was asked for; --list tells the names"
            );
            return ExitCode::FAILURE;
        }
        conclusion.exit_code()
    }
}

/// Where the slice begins, and how many there are.
fn parse_slice(text: &str) -> Option<(usize, usize)> {
    let (number, of) = text.split_once('/')?;
    let (number, of): (usize, usize) = (number.parse().ok()?, of.parse().ok()?);
    (1..=of).contains(&number).then(|| (number - 1, of))
}

/// Whether a name begins in one of these ways; without any, each does.
fn begins_so(name: &str, beginnings: &str) -> bool {
    beginnings.is_empty() || beginnings.split(',').any(|one| name.starts_with(one))
}

/// Runs one test and makes a message of its error, its panic and what it printed.
fn run(test: &Test, captured: bool) -> Result<(), Failed> {
    let capture = if captured {
        Some(Capture::start().map_err(|error| format!("{error:#}"))?)
    } else {
        None
    };
    let body = AssertUnwindSafe(&test.body);
    let message = match watched(&test.name, test.limit, capture.as_ref(), || {
        panic::catch_unwind(body)
    }) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
    };
    let printed = capture.map(|capture| capture.text()).unwrap_or_default();
    if printed.is_empty() {
        return Err(message.into());
    }
    Err(format!("{message}\n--- printed by {}:\n{printed}", test.name).into())
}

/// Runs the body; if it takes too long, shows what was printed and ends the process.
fn watched<T>(
    name: &str,
    limit: Duration,
    capture: Option<&Capture>,
    body: impl FnOnce() -> T,
) -> T {
    thread::scope(|scope| {
        let (finished, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let printed = capture.map(Capture::text).unwrap_or_default();
                let text = format!(
                    "\n{name} did not end within {} s. It printed:\n{printed}\nWhat everybody waits for:\n{}\n",
                    limit.as_secs_f32(),
                    hang::threads().join("\n")
                );
                match capture.map(Capture::original) {
                    Some(Ok(mut out)) => drop(out.write_all(text.as_bytes())),
                    _ => eprint!("{text}"),
                }
                process::exit(FAILED);
            }
        });
        let result = body();
        drop(finished);
        result
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is no text")
}

#[cfg(test)]
mod tests {
    use super::{begins_so, panic_text, parse_slice, watched};
    use std::time::Duration;

    #[test]
    fn slices_are_counted_from_one() {
        assert_eq!(parse_slice("2/3"), Some((1, 3)));
        for wrong in ["0/2", "3/2", "1", "1/", "a/2", "1/0"] {
            assert_eq!(parse_slice(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tests_are_named_by_how_their_names_begin() {
        assert!(begins_so("a::b", ""));
        assert!(begins_so("a::b", "c::,a::"));
        assert!(!begins_so("a::b", "c::,b"));
    }

    #[test]
    fn panics_are_read_in_both_forms() {
        assert_eq!(panic_text(&"plain"), "plain");
        assert_eq!(panic_text(&String::from("made")), "made");
        assert_eq!(panic_text(&7), "with something that is no text");
    }

    #[test]
    fn the_watch_ends_with_the_body() {
        assert_eq!(watched("quick", Duration::from_hours(1), None, || 5), 5);
    }
}
