//! A failing test must fail the run, and say why.

use std::env;
use std::process::Command;

/// Runs the example's tests of that name: the exit status, and all that was printed.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let here = env::current_exe().unwrap();
    let example = here.ancestors().nth(2).unwrap().join("examples/failing");
    let output = Command::new(&example).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_passing_test_is_quiet() {
    let (status, text) = run(&["passes"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("test passes ... ok") && !text.contains("not heard"),
        "{text}"
    );
    assert!(
        text.contains("1 passed; 0 failed") && text.contains("3 filtered out"),
        "{text}"
    );
}

#[test]
fn output_can_be_seen_as_it_comes() {
    let (status, text) = run(&["passes", "--nocapture"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("a passing test is not heard"), "{text}");
}

#[test]
fn an_error_comes_with_what_was_printed() {
    let (status, text) = run(&["errs"]);
    assert_eq!(status, Some(101), "{text}");
    for part in [
        "the reason",
        "from the test",
        "from its child",
        "0 passed; 1 failed",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn a_panic_fails_one_test() {
    let (status, text) = run(&["pa"]);
    assert_eq!(status, Some(101), "{text}");
    assert!(
        text.contains("the panic's reason") && text.contains("1 passed; 1 failed"),
        "{text}"
    );
}

#[test]
fn a_hanging_test_ends_the_run() {
    let (status, text) = run(&["hangs"]);
    assert_eq!(status, Some(101), "{text}");
    assert!(
        text.contains("hangs did not end within 0.3 s") && text.contains("about to hang"),
        "{text}"
    );
}

#[test]
fn a_mistyped_name_is_no_success() {
    let (status, text) = run(&["pases"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("no test was run"), "{text}");
    assert_eq!(run(&["--list"]).0, Some(0));
}
