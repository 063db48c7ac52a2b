//! A manifest: the whole way of `kernelseal inject`.

use std::path::Path;

use clap::Parser as _;

use crate::parsers::kube::inject::{Options, Request, Surroundings, Task, Unfit, edit};

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Either a manifest that a second run leaves as it is and `uninject` can read, or faults that say where. Never one that says the
/// edited text went wrong.
pub fn feed(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let words = ["inject", "--image", "registry.example/kernelseal:0.1.0"];
    let options = Line::try_parse_from(words).expect("options").options;
    let run = |text: &str, task| {
        let request = Request {
            task,
            options: &options,
            unfit: Unfit::Fail,
            pod_paths: &[],
            surroundings: &Surroundings::default(),
        };
        edit(text, Path::new("app.yaml"), &request)
    };
    match run(text, Task::Add) {
        Ok(once) => {
            let twice = run(&once.text, Task::Add).expect("what was written is read");
            assert_eq!(twice.text, once.text);
            run(&once.text, Task::Remove).expect("what was added can be taken away");
        }
        Err(faults) => {
            for fault in &faults.0 {
                assert!(
                    fault.at.is_some_and(|at| at.line > 0 && at.column > 0),
                    "{fault}"
                );
            }
        }
    }
}
