//! What `inject` does to manifests as people write them.

mod back;
mod faults;
mod properties;
mod shapes;
mod sidecar;
mod writer;

use std::path::Path;

use clap::Parser;
use serde_json::Value;

use super::{Edited, Faults, Options, Outcome, Request, Surroundings, Task, Unfit, edit};

/// A manifest with what people put into one.
const DEPLOYMENT: &str = "\
# Checkout, the shop's heart.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: checkout   # two of them
spec:
  replicas: 2
  template:
    metadata:
      labels: {app: checkout}
    spec:
      # The application.
      containers:
      - name: checkout
        image: registry.example/checkout:1.0.0
        args:
        - |
          # not a comment
          exec checkout
      volumes:
      - name: scratch
        emptyDir: {}

# What comes after.
---
apiVersion: v1
kind: Service
metadata: {name:   checkout}
";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Options as on the command line.
fn options(more: &[&str]) -> Options {
    let fixed = ["inject", "--image", "registry.example/kernelseal:0.1.0"];
    Line::try_parse_from(fixed.iter().chain(more))
        .unwrap()
        .options
}

/// What a task makes of a text that is called app.yaml.
fn done(source: &str, more: &[&str], task: Task, unfit: Unfit) -> Result<Edited, Faults> {
    let request = Request {
        task,
        options: &options(more),
        unfit,
        pod_paths: &[],
        surroundings: &Surroundings::default(),
    };
    edit(source, Path::new("app.yaml"), &request)
}

fn injected(source: &str, more: &[&str]) -> Edited {
    done(source, more, Task::Add, Unfit::Fail).unwrap_or_else(|faults| panic!("{faults}\n{source}"))
}

/// The documents as another reader reads them.
fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Lines that are in `before` and, in the same order, in `after`: all of them.
fn assert_kept(before: &str, after: &str) {
    let mut lines = after.lines();
    for line in before.lines() {
        assert!(
            lines.any(|other| other == line),
            "lost or moved: {line:?}\n{after}"
        );
    }
}
