//! The commands `inject` and `uninject`: from their arguments to what they write.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;

use super::{
    Edited, Faults, Options, PodPath, Report, Request, Surroundings, Task, Unfit, edit, manifest,
};

/// Nothing to do where something was expected.
const EXIT_NOTHING: u8 = 3;
/// Something is wrong.
const EXIT_FAILURE: u8 = 1;

/// Which manifests, and where pods are in them.
#[derive(Args)]
struct Manifests {
    /// A manifest: YAML or JSON, any number of documents. `-` is standard input; of a folder, its .yaml, .yml and .json
    /// files. May be given more than once.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Where the pod is in objects of a kind that kernelseal does not know: the keys that lead to its template. May be given more
    /// than once.
    #[arg(long = "pod-path", value_name = "KIND.GROUP=PATH", value_parser = PodPath::read)]
    pod_paths: Vec<PodPath>,
    /// Succeed also when no object has a sidecar in the end, and write the manifests as they are.
    #[arg(long)]
    allow_none: bool,
}

/// `inject`.
#[derive(Args)]
pub(crate) struct Inject {
    #[command(flatten)]
    manifests: Manifests,
    #[command(flatten)]
    options: Options,
    /// Leave pods that cannot have a sidecar as they are, with a line, instead of failing.
    #[arg(long)]
    keep_going: bool,
    /// Replace sidecars that differ from what would be added, such as those of another version.
    #[arg(long)]
    upgrade: bool,
}

/// `uninject`.
#[derive(Args)]
pub(crate) struct Uninject {
    #[command(flatten)]
    manifests: Manifests,
    /// The sidecar's name.
    #[arg(long, value_name = "NAME", default_value = Options::NAME)]
    name: String,
}

/// What a command has to say, and its exit code.
pub(crate) struct Said {
    /// For stdout.
    pub(crate) manifest: String,
    /// For stderr: lines, the last one with its line break.
    pub(crate) notes: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Inject {
    /// Reads the manifests and adds the sidecar.
    pub(crate) fn run(&self) -> Said {
        let task = if self.upgrade {
            Task::Upgrade
        } else {
            Task::Add
        };
        let unfit = if self.keep_going {
            Unfit::Keep
        } else {
            Unfit::Fail
        };
        self.manifests.run(task, &self.options, unfit)
    }
}

impl Uninject {
    /// Reads the manifests and takes the sidecar away.
    pub(crate) fn run(&self) -> Said {
        let options = Options::named(&self.name);
        self.manifests.run(Task::Remove, &options, Unfit::Keep)
    }
}

impl Manifests {
    fn run(&self, task: Task, options: &Options, unfit: Unfit) -> Said {
        match self.edit(task, options, unfit) {
            Ok(said) => said,
            Err(faults) => Said {
                manifest: String::new(),
                notes: format!("{faults}\n"),
                code: EXIT_FAILURE,
            },
        }
    }

    fn edit(&self, task: Task, options: &Options, unfit: Unfit) -> Result<Said, Faults> {
        // All are read before any is judged: what is in one says something about pods in another.
        let (mut sources, mut surroundings) = (Vec::new(), Surroundings::default());
        for file in self.files()? {
            let text = manifest::load(&file)?;
            for piece in manifest::pieces(&text) {
                surroundings.learn(piece.text);
            }
            sources.push((manifest::name(&file).to_owned(), text));
        }
        let request = Request {
            task,
            options,
            unfit,
            pod_paths: &self.pod_paths,
            surroundings: &surroundings,
        };
        let (mut texts, mut notes, mut faults) = (Vec::new(), String::new(), Vec::new());
        let mut is_done = false;
        for (file, text) in &sources {
            match edit(text, file, &request) {
                Ok(edited) => {
                    is_done |= edited.objects.iter().any(|object| object.outcome.is_done());
                    tell(&edited, &mut notes);
                    texts.push(edited.text);
                }
                Err(found) => faults.extend(found.0),
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        if is_done || self.allow_none {
            return Ok(Said {
                manifest: manifest::join(&texts),
                notes,
                code: 0,
            });
        }
        let deed = if task == Task::Remove {
            "removed"
        } else {
            "injected"
        };
        let _ = writeln!(
            notes,
            "kernelseal: nothing was {deed}, and nothing is written\n  = help: see the reasons above; with --allow-none the manifests pass as they are"
        );
        Ok(Said {
            manifest: String::new(),
            notes,
            code: EXIT_NOTHING,
        })
    }

    fn files(&self) -> Result<Vec<PathBuf>, Faults> {
        let mut files = Vec::new();
        for named in &self.files {
            files.extend(manifest::files(named)?);
        }
        Ok(files)
    }
}

/// Writes a line an object, each with its notes behind it.
fn tell(edited: &Edited, notes: &mut String) {
    let objects = edited.objects.iter().cloned().map(Report::told);
    let mut all: Vec<_> = objects.chain(edited.notes.iter().cloned()).collect();
    all.sort_by_key(|line| line.at);
    for line in all {
        let _ = writeln!(notes, "{line}");
    }
}
