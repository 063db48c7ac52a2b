//! A place like a pod: a PID and mount namespace that lives for a test, and programs beside each other in it.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::namespace::{beside, in_pid_namespace, process_one};
use crate::process::{Running, spawn};

const SOON: Duration = Duration::from_secs(20);
/// What process 1 does: it waits for whoever dies beside it, as a pod's first process does.
const FIRST: &str = "echo ready; sleep 100000; :";

/// Where programs run: on the machine itself, in a pod, or in a pod below a pod.
#[derive(Debug)]
pub enum Place {
    /// The test's own namespaces.
    Machine,
    /// A pod's.
    Pod {
        /// Its first process, which ends with us.
        _first: Running,
        /// That process's number, as the test sees it.
        number: u32,
    },
}

impl Place {
    /// A new pod on the machine.
    pub fn pod() -> Result<Self> {
        let mut first = in_pid_namespace("sh");
        first.args(["-c", FIRST]);
        Self::begun_by(&mut first)
    }

    /// The same, with a program as its process 1 that prints "ready".
    pub fn pod_of(program: &Path) -> Result<Self> {
        Self::begun_by(&mut in_pid_namespace(program))
    }

    fn begun_by(command: &mut Command) -> Result<Self> {
        let first = start(command)?;
        let number = process_one(first.pid())?;
        Ok(Self::Pod {
            _first: first,
            number,
        })
    }

    /// A new pod in this place, its PID namespace nested below this one's.
    pub fn pod_below(&self) -> Result<Self> {
        let mut first = in_pid_namespace("sh");
        first.args(["-c", FIRST]);
        self.begun_below(&mut first)
    }

    /// The same, with a program as its process 1 that prints "ready".
    pub fn pod_below_of(&self, program: &Path) -> Result<Self> {
        self.begun_below(&mut in_pid_namespace(program))
    }

    fn begun_below(&self, first: &mut Command) -> Result<Self> {
        let Self::Pod { number, .. } = self else {
            return Self::begun_by(first);
        };
        let own = env::current_exe().context("cannot find this program")?;
        let mut command = beside(*number, own)?;
        command.args(first.get_args());
        let first = start(&mut command)?;
        let number = process_one(process_one(first.pid())?)?;
        Ok(Self::Pod {
            _first: first,
            number,
        })
    }

    /// A command that will run `program` here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        match self {
            Self::Machine => Ok(Command::new(program)),
            Self::Pod { number, .. } => beside(*number, program),
        }
    }
}

fn start(command: &mut Command) -> Result<Running> {
    let mut first = spawn(command)?;
    let line = first.line(SOON)?;
    ensure!(line == "ready", "a pod's first process printed {line}");
    Ok(first)
}
